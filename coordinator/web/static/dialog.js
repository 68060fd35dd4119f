// Asks before something happens: what exactly, and what that costs. The safe answer has the focus.

import { el, icon } from "./dom.js";

let made = 0;

/**
 * Ask in a dialog. body: nodes; typed: a name that must be typed first; fields: inputs whose values are given back by id;
 * can false: there is nothing to say yes to.
 * Returns false for no, else an object with the values.
 */
export function ask({ title, body = [], yes, danger = false, typed = "", fields = [], can = true, no = "Cancel", picture = "" }) {
  made += 1;
  const back = document.activeElement;
  const titleId = `dialog-${made}`;
  const go = el("button", { type: "submit", class: danger ? "danger" : "primary", value: "yes" }, picture ? icon(picture) : null, yes);
  const stop = el("button", { type: "button" }, can ? no : "Close");
  const inside = el("div", { class: "body" }, ...body);
  for (const field of fields) {
    const id = `${titleId}-${field.id}`;
    field.input.id = id;
    inside.append(el("div", { class: "field" }, el("label", { for: id, text: field.label }), field.input, field.hint ? el("p", { class: "hint", text: field.hint }) : null));
  }
  if (typed) {
    const input = el("input", { type: "text", id: `${titleId}-typed`, autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    go.disabled = true;
    input.addEventListener("input", () => (go.disabled = input.value.trim() !== typed));
    inside.append(el("div", { class: "field" }, el("label", { for: input.id }, "Type ", el("code", { text: typed }), " to go on"), input));
  }
  const form = el("form", { method: "dialog" }, el("h2", { id: titleId, text: title }), inside, el("div", { class: "ends" }, stop, can ? go : null));
  const box = el("dialog", { "aria-labelledby": titleId }, form);
  document.body.append(box);
  return new Promise((resolve) => {
    stop.addEventListener("click", () => box.close(""));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!go.disabled) box.close("yes");
    });
    box.addEventListener("close", () => {
      const values = Object.fromEntries(fields.map((field) => [field.id, field.input.value]));
      box.remove();
      if (back?.isConnected) back.focus();
      resolve(box.returnValue === "yes" ? values : false);
    });
    box.showModal();
    (fields[0]?.input ?? stop).focus();
  });
}
