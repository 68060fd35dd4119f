// One download in detail: progress, speed over time, copies, agents, files under way with their chunk maps, files and errors.

import { get, part, post } from "./api.js";
import { drawMap } from "./chunk_map.js";
import { ask } from "./dialog.js";
import { el, icon, keep, linked, setText } from "./dom.js";
import * as format from "./format.js";
import { JobAgents } from "./job_agents.js";
import { JobFiles } from "./job_files.js";
import { bar, badge, done, isTable, possible, setActions, setBadge, setBar, state, title } from "./job_parts.js";
import { SpeedPlot, plainStep } from "./plot.js";
import { act, note, toast, wait } from "./shell.js";

const PHASES = { fetching: "fetching", opening: "getting ready", ranges: "fetching in parts", verifying: "verifying" };
const COPIES = {
  joining: ["waiting", "", "Looking what is there"],
  copying: ["running", "run", "Copying"],
  done: ["done", "ok", "Done"],
  failed: ["failed", "bad", "Failed"],
  lost: ["warning", "warn", "Agent lost"],
};
const ACTIVE_SHOWN = 50;

/** Shows a job in a box, as long as it is not closed. */
export class JobView {
  constructor(box, live, jobId) {
    this._box = box;
    this._live = live;
    this._id = jobId;
    this._detail = null;
    this._ended = false;
    this._onChange = ({ detail }) => {
      if (detail.has("job")) this._take(live.detail);
      else if (detail.has("agents") && this._detail) this._agents.show(this._detail);
    };
    live.addEventListener("change", this._onChange);
    box.replaceChildren(backLink(), wait("Loading …"));
    this._load();
  }

  close() {
    this._live.removeEventListener("change", this._onChange);
    this._closed = true;
    this._box.replaceChildren();
  }

  async _load() {
    try {
      const detail = await get(`/api/jobs/${part(this._id)}`);
      if (this._closed) return;
      this._build(detail.job);
      this._take(detail);
      const { samples } = await get(`/api/jobs/${part(this._id)}/history`);
      if (this._closed) return;
      this._plot.set(samples);
      this._speedCard.hidden = Boolean(detail.job.ended_at) && samples.length < 2;
    } catch (error) {
      if (!this._closed) this._box.replaceChildren(backLink(), note(error, () => this._load()));
    }
  }

  // ---- what stays ----------------------------------------------------------------------------------------------------

  _build(job) {
    document.title = `${title(job)} · Shoal`;
    this._state = el("span", { class: "state" });
    this._acts = el("div", { class: "acts" });
    this._bar = bar();
    this._figures = el("dl", { class: "job-figures" });
    this._note = el("div", { "aria-live": "polite" });
    const plotBox = el("div", { class: "plot" });
    this._speedCard = card("Speed", plotBox);
    this._copies = el("section", { class: "card", "aria-label": "Copies by agent", hidden: true });
    const agents = el("section", { class: "card", "aria-label": "Agents", hidden: true });
    this._byAgent = el("p", { class: "hint" });
    this._active = el("ul", { "aria-label": "Files under way" });
    this._activeCard = card("Under way", this._byAgent, this._active);
    this._facts = el("dl", { class: "facts" });
    const files = el("section", { class: "card" });
    this._box.replaceChildren(
      backLink(),
      el("div", { class: "job-top" }, el("div", {}, el("h1", { text: title(job) }), this._state), this._acts),
      el("section", { class: "card", "aria-label": "Progress" }, this._bar, this._figures),
      this._note,
      this._speedCard,
      this._copies,
      agents,
      this._activeCard,
      files,
      card("About it", this._facts),
    );
    this._plot = new SpeedPlot(plotBox, isTable(job) ? { what: "Rows over time", show: (rows) => `${format.number(rows)} rows/s`, step: plainStep } : { what: "Speed of this download" });
    this._agents = new JobAgents(agents, this._live.agents);
    this._files = new JobFiles(files, this._id);
  }

  // ---- what changes --------------------------------------------------------------------------------------------------

  _take(detail) {
    const { job } = detail;
    if (job.job_id !== this._id && this._detail?.job.job_id !== job.job_id) this._id = job.job_id;
    if (!this._plot) return;
    this._detail = detail;
    setBadge(this._state, state(job));
    this._showActions(job);
    setBar(this._bar, job, `Progress: ${done(job)[2]} %`);
    this._showFigures(job);
    this._showNote(job);
    if (!job.ended_at) this._plot.add({ at: this._live.takenAt || Date.now() / 1000, rate: isTable(job) ? job.rows_per_s : job.rate_bytes_per_s });
    this._showCopies(detail.replicas, job);
    this._agents.show(detail);
    this._showActive(detail.active);
    this._showFacts(job);
    this._files.note(job);
  }

  _showActions(job) {
    setActions(this._acts, job, (changed) => this._take({ ...this._detail, job: changed }));
    if (possible(job).includes("cancel") && !this._acts.querySelector("[data-action=priority]")) {
      this._acts.append(el("button", { type: "button", "data-action": "priority", onclick: (event) => this._changePriority(event.currentTarget) }, icon("update"), "Priority"));
    }
  }

  async _changePriority(button) {
    const { job } = this._detail;
    const input = el("input", { type: "number", step: "1", min: "-1000000", max: "1000000", required: true, class: "prio", value: String(job.priority) });
    const given = await ask({ title: "Priority", yes: "Set", fields: [{ id: "priority", label: "Priority", input, hint: "Larger is sooner. Downloads have 0 unless somebody says otherwise." }] });
    if (!given) return;
    await act(button, async () => {
      const changed = await post(`/api/jobs/${part(job.job_id)}/priority`, { priority: Number(given.priority) });
      toast(`Priority ${changed.priority}`);
      this._take({ ...this._detail, job: changed });
    });
  }

  _showFigures(job) {
    const [some, all, whole] = done(job);
    const shown = [["Done", `${whole} %`]];
    if (isTable(job)) shown.push(["Rows", `${format.count(some)} of ${format.count(all)}`], ["Speed", `${format.number(job.rows_per_s)} rows/s`]);
    else {
      shown.push(["Bytes", all ? `${format.size(some)} of ${format.size(all)}` : format.size(some)], ["Files", `${format.count(job.objects_done)} of ${format.count(job.objects_total)}`]);
      if (job.objects_failed) shown.push(["Failed", format.counted(job.objects_failed, "file")]);
      if (!job.ended_at) shown.push(["Speed", format.rate(job.rate_bytes_per_s)]);
    }
    if (!job.ended_at) shown.push(["Time left", job.paused ? "paused" : job.eta_s === null ? "not known yet" : format.duration(job.eta_s)]);
    else shown.push(["Took", format.duration(job.ended_at - job.created_at)]);
    if (!isTable(job)) shown.push(["From the origin", format.size(job.bytes_from_origin)]);
    if (job.delivery === "replicate") shown.push(["From agents", format.size(job.bytes_from_peers)]);
    keep(this._figures, shown, {
      key: ([name]) => name,
      make: ([name]) => el("div", {}, el("dt", { text: name }), el("dd", { class: "figure" })),
      update: (box, [, text]) => setText(box.lastElementChild, text),
    });
  }

  _showNote(job) {
    const text = job.failure?.text ?? "";
    const key = `${text}|${job.status}`;
    if (this._note.dataset.key === key) return;
    this._note.dataset.key = key;
    this._note.replaceChildren();
    if (text) this._note.append(el("div", { class: "note bad" }, icon("warning"), el("strong", { text: job.ended_at ? "It failed" : "Something failed" }), el("span", {}, linked(text)), job.failure.retryable && job.ended_at ? el("span", { class: "muted", text: "Retry brings back what failed; what is there is not fetched again." }) : null));
    else if (job.status === "done") this._note.append(el("div", { class: "note ok" }, icon("done"), el("strong", { text: "All of it is there, and verified" }), el("span", {}, "In ", el("code", { text: job.destination || "the Hub's cache" }))));
  }

  _showCopies(replicas, job) {
    this._copies.hidden = replicas.length === 0;
    if (replicas.length === 0) return;
    if (!this._copies.firstElementChild) {
      this._copies.append(
        el("header", { class: "card-head" }, el("h2", { text: "Copies" })),
        el("div", { class: "table-box" }, el("table", { class: "rows stack" }, el("caption", { class: "sr", text: "The copy of each agent" }), el("thead", {}, el("tr", {}, ...["Agent", "State", "Done", "From the origin", "From agents"].map((text, index) => el("th", { scope: "col", class: index > 1 ? "num" : "", text })))), el("tbody"))),
      );
    }
    keep(this._copies.querySelector("tbody"), replicas, {
      key: (copy) => copy.agent_id,
      make: (copy) => el("tr", {}, el("th", { scope: "row", text: copy.name }), el("td", { "data-label": "State" }), ...["Done", "From the origin", "From agents"].map((label) => el("td", { class: "num", "data-label": label }, el("span")))),
      update: (row, copy) => {
        const cells = row.children;
        if (cells[1].dataset.status !== copy.status) {
          cells[1].dataset.status = copy.status;
          cells[1].replaceChildren(badge(COPIES[copy.status] ?? ["unknown", "", copy.status]), copy.failure ? el("span", { class: "sub", text: copy.failure.text }) : "");
        }
        const share = job.bytes_total ? ` (${format.percent(copy.bytes_done, job.bytes_total)} %)` : "";
        [format.size(copy.bytes_done) + share, format.size(copy.from_origin), format.size(copy.from_peers)].forEach((text, index) => setText(cells[index + 2].firstElementChild, text));
      },
    });
  }

  _showActive(active) {
    this._activeCard.hidden = active.length === 0;
    setText(this._byAgent, this._saidByAgent(active));
    keep(this._active, active.slice(0, ACTIVE_SHOWN), {
      key: (file) => file.object_id,
      make: (file) => el("li", { class: "active-file" }, el("div", { class: "head" }, el("span", { class: "path", text: file.path }), el("span", { class: "muted num" })), el("canvas", { class: "chunk-map", role: "img" }), el("span", { class: "sub" })),
      update: (row, file) => {
        const whole = format.percent(file.done_bytes, file.size);
        setText(row.querySelector(".num"), file.size ? `${whole} % of ${format.size(file.size)}` : format.size(file.done_bytes));
        drawMap(row.querySelector("canvas"), file.map || flat(whole), whole);
        setText(row.querySelector(".sub"), `${PHASES[file.phase] ?? file.phase}${file.agents.length ? ` by ${file.agents.join(", ")}` : ""}`);
      },
    });
  }

  /** What each agent has in hand, and how fast it is. */
  _saidByAgent(active) {
    const files = new Map();
    for (const name of active.flatMap((file) => file.agents)) files.set(name, (files.get(name) ?? 0) + 1);
    const rates = new Map([...this._live.agents.values()].map((agent) => [agent.name, agent.rate_bytes_per_s]));
    return [...files].sort().map(([name, count]) => `${name}: ${format.counted(count, "file")}${rates.has(name) ? `, ${format.rate(rates.get(name))}` : ""}`).join(" · ");
  }

  _showFacts(job) {
    const shown = [
      ["Source", job.uri],
      ["To", job.destination || "the Hub's cache"],
      ["Copies", { spread: "one", replicate: "one on every agent", dataset: "a table of what was collected" }[job.delivery] ?? job.delivery],
      job.revision && ["Revision", job.revision],
      job.commit && ["Commit", job.commit],
      job.nas && ["On the NAS", format.nasWords(job.nas)],
      job.objects_skipped && ["There before", format.counted(job.objects_skipped, "file")],
      ["Begun", format.moment(job.created_at)],
      job.ended_at && ["Ended", format.moment(job.ended_at)],
      ["Priority", String(job.priority)],
      ["Id", job.job_id],
    ].filter(Boolean);
    const flat = shown.flatMap(([name, text]) => [{ key: `${name} name`, text: name, kind: "dt" }, { key: name, text, kind: "dd" }]);
    keep(this._facts, flat, { key: (each) => each.key, make: (each) => el(each.kind), update: (box, each) => setText(box, each.text) });
  }
}

/** A map of a file of which only the sum is known: filled from its begin. */
const flat = (whole) => "9".repeat(whole).padEnd(100, "0");

const backLink = () => el("a", { class: "back", href: location.pathname, "data-list": true }, icon("open"), "All downloads");

const card = (name, ...inside) => el("section", { class: "card", "aria-label": name }, el("header", { class: "card-head" }, el("h2", { text: name })), ...inside);
