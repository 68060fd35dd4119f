// The page of runs that collect URL tables: the list, and one run with ?run=ID.

import { get } from "./api.js";
import { byId, el, keep, onceAFrame, setText } from "./dom.js";
import { bar, figures, setActions, setBadge, setBar, setLine, state, title } from "./job_parts.js";
import { Live } from "./live.js";
import { RunView } from "./run_view.js";
import { begin, empty, note, onViews, showLink } from "./shell.js";

const STEP = 50;

const live = new Live();
let runs = [];
let cursor = null;
let view = null;

function row(job) {
  return el(
    "li",
    { "data-job": job.job_id },
    el("span", { class: "job-name" }, el("a", { href: `?run=${encodeURIComponent(job.job_id)}`, text: title(job) })),
    el("span", { class: "state" }),
    bar(),
    el("div", { class: "job-line" }),
    el("div", { class: "job-acts" }),
  );
}

function updateRow(box, job) {
  const at = (name) => box.querySelector(name);
  setText(at("a"), title(job));
  setBadge(at(".state"), state(job));
  setBar(at(".bar"), job, `Progress of ${title(job)}`);
  setLine(at(".job-line"), figures(job));
  setActions(at(".job-acts"), job, (changed) => live.take("jobs", { jobs: [changed] }), { named: false });
}

const draw = onceAFrame(() => {
  if (view !== null) return;
  const known = new Set(runs.map((run) => run.job_id));
  const newer = [...live.jobs.values()].filter((job) => job.delivery === "dataset" && !known.has(job.job_id));
  const shown = [...newer.sort((one, other) => other.created_at - one.created_at), ...runs].map((run) => live.jobs.get(run.job_id) ?? run);
  keep(byId("runs"), shown, { key: (run) => run.job_id, make: row, update: updateRow });
  byId("runs").removeAttribute("aria-busy");
  byId("runs-more").hidden = cursor === null;
  const box = byId("runs-empty");
  if (shown.length) box.hidden = true;
  else if (box.hidden && !byId("runs-trouble").firstElementChild) empty(box, "collections", "No table was collected yet", "A table of URLs becomes a dataset of images, host by host, politely. Runs appear here:", el("code", { text: "shoal collect table.parquet --to /data/out" }));
});

async function list({ more = false } = {}) {
  try {
    const page = await get("/api/collections", { limit: STEP, cursor: more ? cursor : "" });
    runs = more ? [...runs, ...page.jobs] : page.jobs;
    cursor = page.next_cursor;
    byId("runs-trouble").replaceChildren();
    draw();
  } catch (error) {
    byId("runs-trouble").replaceChildren(note(error, () => list()));
  }
}

function route() {
  const run = new URLSearchParams(location.search).get("run");
  view?.close();
  view = null;
  byId("list").hidden = Boolean(run);
  byId("run").hidden = !run;
  if (run) view = new RunView(byId("run"), live, run);
  else {
    document.title = "Collections · Shoal";
    list();
  }
}

begin(async () => {
  showLink(live);
  live.addEventListener("change", ({ detail }) => detail.has("jobs") && draw());
  live.addEventListener("link", ({ detail }) => detail === "live" && byId("runs-trouble").firstElementChild && list());
  onViews(route);
  byId("runs-more").addEventListener("click", () => list({ more: true }));
  live.start();
  route();
});

