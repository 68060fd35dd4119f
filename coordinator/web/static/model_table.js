// A table of models, page by page: what each is, how new, and what can be done with it.

import { get } from "./api.js";
import { el, icon, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./job_parts.js";
import { askAndDelete } from "./model_delete.js";
import { ModelMore } from "./model_more.js";
import { verify } from "./model_verify.js";
import { act, note } from "./shell.js";

const STEP = 100;

const FRESHNESS = {
  outdated: ["update", "warn", "Update"],
  current: ["done", "ok", "Up to date"],
  pinned: ["pin", "", "Pinned"],
  unknown: ["unknown", "", "Not asked"],
};
const UPDATING = ["running", "run", "Updating"];

/** The name that people call a model by. */
export const nameOf = (model) => model.repo_id || model.source || model.path.split("/").pop() || model.path;

/** Models that match a query. together: picks (Map by id), picked(), changed(), update(models), updating (Map of jobs). */
export class ModelTable {
  constructor(query, together) {
    this._query = query;
    this._with = together;
    this._cursor = null;
    this._open = new Map(); // details by model id
    this.models = [];
    this._rows = el("tbody");
    this._more = el("button", { type: "button", class: "quiet", hidden: true, onclick: (event) => act(event.currentTarget, () => this.load()) }, "Show more");
    const columns = [["", "tick"], ["Model"], ["Quantization"], ["Revision"], ["State"], ["Size", "num"], ["Fetched"], ["", ""]];
    const words = { 0: "Pick", 7: "Actions" };
    const head = columns.map(([text, kind], index) => el("th", { scope: "col", class: kind }, words[index] ? el("span", { class: "sr", text: words[index] }) : text));
    this._trouble = el("div");
    this.box = el(
      "div",
      {},
      el("div", { class: "table-box" }, el("table", { class: "rows stack models-table" }, el("caption", { class: "sr", text: "Models on disk" }), el("thead", {}, el("tr", {}, ...head)), this._rows)),
      this._trouble,
      this._more,
    );
  }

  /** Fetch the next page. */
  async load() {
    try {
      this.take(await get("/api/models", { ...this._query, limit: STEP, cursor: this._cursor ?? "" }));
      this._trouble.replaceChildren();
    } catch (error) {
      this._trouble.replaceChildren(note(error, () => this.load()));
    }
  }

  take(page) {
    this.models.push(...page.models);
    this._cursor = page.next_cursor;
    this._more.hidden = this._cursor === null;
    setText(this._more, `Show more of ${format.counted(page.total, "model")}`);
    this.draw();
  }

  /** Show models as they are now, where they are in this table. */
  replace(models) {
    const newer = new Map(models.map((model) => [model.model_id, model]));
    this.models = this.models.map((model) => newer.get(model.model_id) ?? model);
    this.draw();
  }

  draw() {
    const items = this.models.flatMap((model) => (this._open.has(model.model_id) ? [{ model }, { model, more: this._open.get(model.model_id) }] : [{ model }]));
    keep(this._rows, items, {
      key: ({ model, more }) => (more ? `more ${model.model_id}` : model.model_id),
      make: ({ model, more }) => (more ? el("tr", { class: "model-more" }, el("td", { colspan: 8 }, more.box)) : this._row(model)),
      update: (row, { model, more }) => more || this._update(row, model),
    });
  }

  _row(model) {
    const id = model.model_id;
    const name = nameOf(model);
    const tick = el("input", { type: "checkbox", "aria-label": `Pick ${name}` });
    tick.checked = this._with.picks.has(id);
    tick.addEventListener("change", () => {
      if (tick.checked) this._with.picks.set(id, this._model(id));
      else this._with.picks.delete(id);
      this._with.picked();
    });
    const open = el("button", { type: "button", class: "open-model", "aria-expanded": "false", onclick: () => this._toggle(id, open) }, name);
    return el(
      "tr",
      { "data-model": id },
      el("td", { class: "tick" }, tick),
      el("th", { scope: "row", class: "name" }, el("span", {}, open, el("span", { class: "sub", text: model.kind === "model" ? model.path : `${model.kind} · ${model.path}` }))),
      el("td", { "data-label": "Quantization" }, el("span", {}, ...model.quantizations.slice(0, 4).map((text) => el("span", { class: "tag", text })), model.quantizations.length > 4 ? `+${model.quantizations.length - 4}` : "")),
      el("td", { "data-label": "Revision" }, el("span", { class: "revision" })),
      el("td", { "data-label": "State" }, el("span", { class: "fresh" })),
      el("td", { class: "num", "data-label": "Size" }, el("span", { class: "size" })),
      el("td", { "data-label": "Fetched" }, el("time", { class: "muted" })),
      el("td", { class: "actions" }, ...this._actions(id, name)),
    );
  }

  _actions(id, name) {
    const button = (action, picture, word, run) =>
      el("button", { type: "button", class: "quiet", "data-action": action, title: word, "aria-label": `${word} ${name}`, onclick: (event) => run(event.currentTarget, this._model(id)) }, icon(picture), action === "update" ? word : el("span", { class: "word", text: word }));
    return [
      button("update", "update", "Update", (own, model) => act(own, () => this._with.update([model]))),
      button("verify", "verify", "Verify", (own, model) => act(own, () => verify(model, nameOf(model)))),
      button("delete", "delete", "Delete", (own, model) => act(own, async () => (await askAndDelete(model, nameOf(model))) && this._gone(model))),
    ];
  }

  _model(id) {
    return this.models.find((model) => model.model_id === id);
  }

  _update(row, model) {
    const at = (name) => row.querySelector(name);
    const newest = model.revisions[0];
    const ref = newest?.refs[0] ? `${newest.refs[0]} @ ` : "";
    const others = model.revisions.length > 1 ? ` +${model.revisions.length - 1}` : "";
    setText(at(".revision"), newest ? `${ref}${format.commit(newest.commit)}${others}` : "");
    const isUpdating = [...this._with.updating.values()].includes(model.model_id);
    const said = isUpdating ? UPDATING : FRESHNESS[model.freshness];
    const fresh = at(".fresh");
    if (fresh.firstElementChild?.dataset.word !== said[2]) fresh.replaceChildren(badge(said));
    fresh.title = model.freshness === "unknown" ? model.reason : model.latest ? `Newest: ${format.commit(model.latest)}` : "";
    setText(at(".size"), format.size(model.bytes));
    const when = at("time");
    setText(when, format.ago(model.fetched_at));
    when.title = format.moment(model.fetched_at);
    at("[data-action=update]").hidden = model.freshness !== "outdated" || isUpdating;
  }

  async _toggle(id, button) {
    const isOpen = this._open.has(id);
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) this._open.delete(id);
    else this._open.set(id, new ModelMore(this._model(id), () => this._with.changed()));
    this.draw();
  }

  _gone(model) {
    this._with.picks.delete(model.model_id);
    this._with.picked();
    this._with.changed();
  }
}

