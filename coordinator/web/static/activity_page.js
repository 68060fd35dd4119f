// The page of downloads: those under way live, the others paged; one of them in detail with ?job=ID.

import { base, get } from "./api.js";
import { byId, el, icon, keep, onceAFrame, setText } from "./dom.js";
import * as format from "./format.js";
import { bar, figures, setActions, setBadge, setBar, setLine, state, title } from "./job_parts.js";
import { JobView } from "./job_view.js";
import { Live } from "./live.js";
import { SpeedPlot } from "./plot.js";
import { begin, empty, note, onViews, showLink } from "./shell.js";

const STEP = 50;

const live = new Live();
let view = null; // of one job
let shown = "active"; // which list
let limit = STEP; // rows of the list of what is under way
let listed = new Map(); // jobs of a paged list, by id
let cursor = null;
let asked = 0;

// ---- the list --------------------------------------------------------------------------------------------------------

function jobRow(job) {
  const name = el("span", { class: "job-name" }, el("a", { href: `?job=${encodeURIComponent(job.job_id)}`, text: title(job) }));
  const row = el(
    "li",
    { "data-job": job.job_id },
    name,
    el("span", { class: "state" }),
    bar(),
    el("div", { class: "job-line" }),
    el("p", { class: "job-error", hidden: true }),
    el("div", { class: "job-acts" }),
  );
  return row;
}

function updateRow(row, job) {
  const at = (name) => row.querySelector(name);
  setText(at("a"), title(job));
  setBadge(at(".state"), state(job));
  setBar(at(".bar"), job, `Progress of ${title(job)}`);
  setLine(at(".job-line"), figures(job));
  const error = at(".job-error");
  error.hidden = !job.failure;
  if (job.failure) setText(error, job.failure.text);
  setActions(at(".job-acts"), job, changed, { named: false });
}

function changed(job) {
  live.take("jobs", { jobs: [job] });
  if (listed.has(job.job_id)) listed.set(job.job_id, job);
  draw();
}

const inOrder = (one, other) => other.priority - one.priority || one.created_at - other.created_at;

function underWay() {
  return [...live.jobs.values()].filter((job) => !job.ended_at).sort(inOrder);
}

const draw = onceAFrame(() => {
  if (view !== null || live.fleet === null) return;
  let jobs;
  let total;
  if (shown === "active") {
    const all = underWay();
    jobs = all.slice(0, limit);
    total = Math.max(all.length, live.fleet.jobs_active);
    byId("jobs-more").hidden = all.length <= limit;
    setText(byId("jobs-count"), total > jobs.length ? `${format.count(jobs.length)} of ${format.count(total)}` : format.counted(total, "download"));
  } else {
    jobs = [...listed.values()].map((job) => live.jobs.get(job.job_id) ?? job);
    total = jobs.length;
    byId("jobs-more").hidden = cursor === null;
    setText(byId("jobs-count"), `${format.count(total)}${cursor ? " and more" : ""}, newest first`);
  }
  const list = byId("jobs");
  keep(list, jobs, { key: (job) => job.job_id, make: jobRow, update: updateRow });
  list.removeAttribute("aria-busy");
  const isKnown = shown === "active" || (asked === 0 && !byId("jobs-trouble").firstElementChild);
  if (jobs.length === 0 && isKnown) showEmpty();
  else byId("jobs-empty").hidden = true;
});

function showEmpty() {
  const go = el("a", { class: "button", href: `${base}/` }, icon("download"), "Download something");
  const box = byId("jobs-empty");
  if (box.dataset.of === shown && !box.hidden) return;
  box.dataset.of = shown;
  if (shown === "failed") empty(box, "done", "Nothing failed", "Downloads that could not be finished would be here, with the reason.");
  else if (shown === "active") empty(box, "activity", "Nothing is under way", live.fleet.jobs_ended ? "What has ended is under All." : "What you start appears here.", go);
  else empty(box, "activity", "No downloads yet", "What you start appears here.", go);
}

async function list(which, { more = false } = {}) {
  shown = which;
  for (const button of document.querySelectorAll(".segments button")) button.setAttribute("aria-pressed", String(button.dataset.state === which));
  if (!more) byId("jobs-trouble").replaceChildren();
  if (which === "active") return draw();
  asked += 1;
  try {
    const page = await get("/api/jobs", { state: which, limit: STEP, cursor: more ? cursor : "" });
    if (shown !== which) return;
    byId("jobs-trouble").replaceChildren();
    if (!more) listed = new Map();
    for (const job of page.jobs) listed.set(job.job_id, job);
    cursor = page.next_cursor;
  } catch (error) {
    byId("jobs-trouble").replaceChildren(note(error, () => list(which)));
  } finally {
    asked -= 1;
    draw();
  }
}

// ---- which of the two ------------------------------------------------------------------------------------------------

function route() {
  const job = new URLSearchParams(location.search).get("job");
  view?.close();
  view = null;
  byId("list").hidden = Boolean(job);
  byId("job").hidden = !job;
  live.follow(job ?? "");
  if (job) view = new JobView(byId("job"), live, job);
  else {
    document.title = "Activity · Shoal";
    draw();
  }
}

begin(async () => {
  const plot = new SpeedPlot(byId("fleet-plot"), { what: "Speed of the fleet" });
  showLink(live);
  live.addEventListener("change", ({ detail }) => {
    if (detail.has("fleet")) {
      const { fleet } = live;
      plot.add({ at: live.takenAt, rate: fleet.rate_bytes_per_s });
      setText(byId("fleet-line"), [format.rate(fleet.rate_bytes_per_s), format.counted(fleet.agents_alive, "agent"), `${format.counted(fleet.objects_waiting, "file")} waiting`].join(" · "));
    }
    if (detail.has("jobs") || detail.has("fleet")) draw();
  });
  live.addEventListener("link", ({ detail }) => detail === "live" && byId("jobs-trouble").firstElementChild && list(shown));
  onViews(route);
  for (const button of document.querySelectorAll(".segments button")) button.addEventListener("click", () => list(button.dataset.state));
  byId("jobs-more").addEventListener("click", () => {
    if (shown !== "active") return list(shown, { more: true });
    limit += STEP;
    draw();
  });
  route();
  live.start();
  plot.set((await get("/api/history")).samples);
});

