// The frame of every page: the login, the sign of a lost connection, messages that pass, notes that stay.

import { Problem, base, forgetSession, post, toLogin, whoAsks } from "./api.js";
import { byId, el, icon, linked, setText } from "./dom.js";
import * as format from "./format.js";

const TOAST_MS = 8000;

/** Begin a page: find out who asks, then run it. A page that cannot begin says why. */
export async function begin(run) {
  try {
    const session = await whoAsks();
    if (session.login_required) return toLogin();
    if (session.user) showLogOut(session.user);
    await run(session);
  } catch (error) {
    byId("main").prepend(note(error, () => location.reload()));
  }
  document.documentElement.dataset.ready = "true";
}

/** Links between the views of one page need no new page: `route` shows what the address says, also when one goes back. */
export function onViews(route) {
  addEventListener("popstate", route);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='?'], a[data-list]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    route();
    scrollTo(0, 0);
    byId("main").focus();
  });
}

function showLogOut(user) {
  const button = byId("log-out");
  button.hidden = false;
  button.title = `Logged in as ${user}`;
  button.addEventListener("click", async () => {
    await post("/api/logout").catch(() => null);
    forgetSession();
    location.assign(`${base}/login`);
  });
}

const SIGNS = { polling: "No live updates: asking now and then", lost: "Connection lost: trying again" };

/** Show in the frame how fast the fleet is, and when the connection is not as it should be. */
export function showLink(live) {
  const sign = byId("link");
  live.addEventListener("link", ({ detail }) => {
    sign.hidden = detail === "live";
    sign.replaceChildren(...(detail === "live" ? [] : [icon("warning"), SIGNS[detail]]));
    document.documentElement.dataset.link = detail;
  });
  const speed = byId("speed-now");
  live.addEventListener("change", () => {
    const rate = live.fleet?.rate_bytes_per_s ?? 0;
    speed.hidden = rate <= 0;
    setText(speed, `↓ ${format.rate(rate)}`);
  });
}

/** A message that passes. link: [address below base_url, its text]. */
export function toast(text, { bad = false, link } = {}) {
  const close = el("button", { type: "button", "aria-label": "Dismiss" }, "×");
  const box = el("div", { class: bad ? "toast bad" : "toast" }, icon(bad ? "warning" : "done"), el("span", { text }));
  if (link) box.append(el("a", { href: base + link[0], text: link[1] }));
  box.append(close);
  close.addEventListener("click", () => box.remove());
  byId("toasts").append(box);
  if (!bad) setTimeout(() => box.remove(), TOAST_MS);
  while (byId("toasts").children.length > 4) byId("toasts").firstElementChild.remove();
}

/** What went wrong, its cause and its remedy, with a way to try again where that can help. */
export function note(error, again) {
  const box = el("div", { class: "note bad", role: "alert" }, icon("warning"));
  if (error instanceof Problem) {
    const cause = error.cause.charAt(0).toUpperCase() + error.cause.slice(1);
    box.append(el("strong", { text: error.thing || (error.status === 0 ? "No connection" : "It did not work") }), el("span", { text: `${cause}.` }));
    if (error.remedy) box.append(el("span", {}, "What helps: ", linked(error.remedy)));
  } else {
    box.append(el("strong", { text: "This page met a defect" }), el("span", { text: String(error) }));
    console.error(error);
  }
  if (again) box.append(el("div", { class: "row" }, el("button", { type: "button", onclick: again }, icon("retry"), "Try again")));
  return box;
}

/** A note that is no error. kind: warn, ok or "". */
export function remark(kind, title, ...rest) {
  return el("div", { class: `note ${kind}` }, icon(kind === "ok" ? "done" : "warning"), el("strong", { text: title }), ...rest);
}

/** Do something that a button asked for: it is off meanwhile; what goes wrong is told. Returns undefined then. */
export async function act(button, run) {
  if (button.disabled) return undefined;
  const focused = document.activeElement === button;
  button.disabled = true;
  try {
    return await run();
  } catch (error) {
    const text = error instanceof Problem ? [error.message, error.remedy && !error.message.includes(error.remedy) ? error.remedy : ""] : [String(error)];
    toast(text.filter(Boolean).join(". "), { bad: true });
    if (!(error instanceof Problem)) console.error(error);
    return undefined;
  } finally {
    button.disabled = false;
    if (focused && button.isConnected) button.focus();
  }
}

/** Fill an empty state: what it is, and what to do. */
export function empty(box, picture, title, text, ...more) {
  box.replaceChildren(
    el("div", { class: "empty-art" }, icon(picture)),
    el("h2", { text: title }),
    el("p", { text }),
    ...more.filter(Boolean),
  );
  box.hidden = false;
}

export const wait = (text) => el("p", { class: "wait" }, el("span", { class: "spinner", "aria-hidden": "true" }), text);
