// The page of what is on disk: searched, grouped and sorted by the API, paged; picked models can be updated together.

import { base, get, part, post } from "./api.js";
import { byId, el, icon, keep, later, setText } from "./dom.js";
import * as format from "./format.js";
import { Live } from "./live.js";
import { ModelTable } from "./model_table.js";
import { act, begin, empty, note, showLink, toast } from "./shell.js";

const GROUPS_STEP = 100;
const OPEN_MAX = 3; // so few groups are open from the start
const ASK_AT_ONCE = 40; // models in one question for updates: progress is seen in between
const NONE = "(none)"; // as the API names models without an owner, family or quantization

const live = new Live();
const picks = new Map(); // models by id
const updating = new Map(); // job id -> model id
let tables = [];
let groups = [];
let groupsShown = GROUPS_STEP;
let asked = 0;

const filters = () => ({ search: byId("search").value.trim(), freshness: byId("freshness").value });

// ---- what is shown ---------------------------------------------------------------------------------------------------

async function show() {
  asked += 1;
  const mine = asked;
  remember();
  const by = byId("group").value;
  const box = byId("models");
  try {
    const wanted = { ...filters(), sort: byId("sort").value };
    const first = await get("/api/models", { ...wanted, limit: by ? 1 : undefined });
    const found = by ? (await get("/api/models/groups", { by, ...filters() })).groups : [];
    if (mine !== asked) return;
    setText(byId("library-line"), `${format.counted(first.total, "model")}, ${format.size(first.bytes)}`);
    box.removeAttribute("aria-busy");
    if (first.total === 0) return showEmpty();
    byId("models-empty").hidden = true;
    tables = [];
    if (by) {
      groups = found;
      groupsShown = GROUPS_STEP;
      box.className = "";
      box.replaceChildren();
      showGroups(by, wanted);
    } else {
      const table = newTable(wanted);
      box.className = "plain card";
      box.replaceChildren(table.box);
      table.take(first);
      byId("models-more").hidden = true;
    }
  } catch (error) {
    if (mine === asked) box.replaceChildren(note(error, show));
  }
}

function newTable(query) {
  const table = new ModelTable(query, { picks, picked: showPicked, changed: showSoon, update, updating });
  tables.push(table);
  return table;
}

function showGroups(by, wanted) {
  const box = byId("models");
  keep(box, groups.slice(0, groupsShown), {
    key: (group) => group.name,
    make: (group) => groupBox(by, wanted, group),
  });
  const more = byId("models-more");
  more.hidden = groups.length <= groupsShown;
  more.onclick = () => {
    groupsShown += GROUPS_STEP;
    showGroups(by, wanted);
  };
}

function groupBox(by, wanted, group) {
  const inside = el("div", { class: "inside" });
  const box = el("details", { class: "group" }, el("summary", {}, icon("open"), el("span", { text: group.name || `without ${by}` }), el("span", { class: "muted", text: `${format.counted(group.models, "model")} · ${format.size(group.bytes)}` })), inside);
  box.addEventListener("toggle", () => {
    if (!box.open || inside.firstElementChild) return;
    const table = newTable({ ...wanted, [by]: group.name || NONE });
    inside.append(table.box);
    table.load();
  });
  box.open = groups.length <= OPEN_MAX;
  return box;
}

function showEmpty() {
  const { search, freshness } = filters();
  const box = byId("models-empty");
  byId("models").replaceChildren();
  byId("models").className = "";
  byId("models-more").hidden = true;
  if (search || freshness) {
    const all = el("button", { type: "button", onclick: () => { byId("filters").reset(); show(); } }, "Show all");
    empty(box, "search", "Nothing matches", "No model on disk is like that.", all);
  } else {
    empty(box, "library", "Nothing is on disk yet", "What is downloaded to this machine appears here, and what lies in the Hub's cache or below library.roots.", el("a", { class: "button", href: `${base}/` }, icon("download"), "Download something"));
  }
}

const showSoon = later(show, 150);

/** Keep the view in the address, for reloads and links. */
function remember() {
  const query = new URLSearchParams(Object.entries({ ...filters(), group: byId("group").value, sort: byId("sort").value }).filter(([name, value]) => value && !(name === "sort" && value === "name")));
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

// ---- what is picked --------------------------------------------------------------------------------------------------

function showPicked() {
  const bytes = [...picks.values()].reduce((sum, model) => sum + model.bytes, 0);
  setText(byId("picked"), picks.size ? `${format.counted(picks.size, "model")} picked, ${format.size(bytes)}` : "");
  byId("update-picked").disabled = picks.size === 0;
  setText(byId("check").lastChild, picks.size ? "Look for updates of what is picked" : "Look for updates");
}

/** Ask the Hub about what is picked, or about all that is shown. */
async function check() {
  const ids = picks.size ? [...picks.keys()] : tables.flatMap((table) => table.models.map((model) => model.model_id));
  if (ids.length === 0) return;
  const found = [];
  for (let from = 0; from < ids.length; from += ASK_AT_ONCE) {
    setText(byId("picked"), `Asking the Hub: ${format.count(from)} of ${format.counted(ids.length, "model")}`);
    const { models } = await post("/api/models/check", { model_ids: ids.slice(from, from + ASK_AT_ONCE) });
    found.push(...models);
    for (const table of tables) table.replace(models);
  }
  showPicked();
  const newer = found.filter((model) => model.freshness === "outdated").length;
  const unknown = found.filter((model) => model.freshness === "unknown");
  const why = unknown.length ? `; ${format.count(unknown.length)} could not be asked about: ${unknown[0].reason}` : "";
  toast(`${newer ? `${format.counted(newer, "model")} can be updated` : "Nothing newer"}${why}`);
}

/** Submit updates of models, and follow them. */
async function update(models) {
  const { models: answers } = await post("/api/models/update", { model_ids: models.map((model) => model.model_id) });
  const begun = answers.filter((each) => each.job !== null);
  const refused = answers.filter((each) => each.job === null);
  for (const each of begun) updating.set(each.job.job.job_id, each.model_id);
  if (begun.length) toast(`${format.counted(begun.length, "update")} under way`, { link: [begun.length === 1 ? `/activity?job=${part(begun[0].job.job.job_id)}` : "/activity", "Watch"] });
  for (const each of refused.slice(0, 3)) toast(each.reason, { bad: true });
  for (const table of tables) table.draw();
}

/** Jobs of updates that ended: what is on disk is another revision now, which is asked about at once. */
async function followUpdates() {
  const ended = [...updating].filter(([job]) => live.jobs.get(job)?.ended_at);
  if (ended.length === 0) return;
  for (const [job, model] of ended) {
    updating.delete(job);
    const { status, failure } = live.jobs.get(job);
    if (status === "done") await post("/api/models/check", { model_ids: [model] }).catch(() => null);
    else toast(failure?.text ?? `The update was ${status}`, { bad: true, link: [`/activity?job=${part(job)}`, "See"] });
  }
  show();
}

begin(async () => {
  const query = new URLSearchParams(location.search);
  for (const name of ["search", "freshness", "group", "sort"]) if (query.has(name)) byId(name).value = query.get(name);
  for (const name of ["freshness", "group", "sort"]) byId(name).addEventListener("change", show);
  byId("search").addEventListener("input", later(show, 200));
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    show();
  });
  byId("check").addEventListener("click", (event) => act(event.currentTarget, check));
  byId("update-picked").addEventListener("click", (event) => act(event.currentTarget, () => update([...picks.values()])));
  showLink(live);
  live.addEventListener("change", ({ detail }) => {
    if (detail.has("jobs")) followUpdates();
  });
  live.addEventListener("link", ({ detail }) => detail === "live" && byId("models").querySelector(":scope > .note") && show());
  live.start();
  await show();
});
