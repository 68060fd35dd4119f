// One run that collects a URL table: outcome, errors by kind, hosts, a sheet of pictures.

import { base, get, part } from "./api.js";
import { el, icon, keep, later, setText } from "./dom.js";
import * as format from "./format.js";
import { badge, bar, setActions, setBadge, setBar, state, title } from "./job_parts.js";
import { bars, split } from "./plot.js";
import { act, note, wait } from "./shell.js";

const REFRESH_MS = 3000;
const SHEET = 24;
const CODES = {
  "-1": "no answer",
  "-2": "not an image",
  "-3": "refused by policy (robots.txt, private address)",
  "-4": "too large",
  "-5": "the server says noai",
  401: "401 login needed",
  403: "403 forbidden",
  404: "404 not found",
  410: "410 gone",
  429: "429 too many requests",
  500: "500 server error",
  502: "502 bad gateway",
  503: "503 not available",
};
const CONDITIONS = { open: ["done", "ok", "Open"], "half-open": ["waiting", "warn", "Probing"], blocked: ["paused", "warn", "Waiting"], parked: ["failed", "bad", "Parked"], "": ["waiting", "", "Not asked"] };

export const meaning = (code) => CODES[code] ?? (Number(code) >= 100 ? `HTTP ${code}` : `code ${code}`);

/** Shows a run in a box, as long as it is not closed. */
export class RunView {
  constructor(box, live, jobId) {
    this._box = box;
    this._live = live;
    this._id = jobId;
    this._hosts = [];
    this._cursor = null;
    this._closed = false;
    box.replaceChildren(backLink(), wait("Loading …"));
    this._load();
  }

  close() {
    this._closed = true;
    clearTimeout(this._timer);
    this._box.replaceChildren();
  }

  async _load() {
    try {
      const run = await get(`/api/collections/${part(this._id)}`);
      if (this._closed) return;
      if (!this._outcome) {
        this._build(run.job);
        this._loadHosts();
        this._loadSheet();
      }
      this._take(run);
    } catch (error) {
      if (this._closed) return;
      if (!this._outcome) this._box.replaceChildren(backLink(), note(error, () => this._load()));
      else this._again();
    }
  }

  _again() {
    this._timer = setTimeout(() => this._load(), REFRESH_MS);
  }

  _build(job) {
    document.title = `${title(job)} · Shoal`;
    this._state = el("span", { class: "state" });
    this._acts = el("div", { class: "acts" });
    this._bar = bar();
    this._line = el("p", { class: "hint" });
    this._outcome = el("div");
    this._errors = el("div");
    this._sheet = el("div");
    this._box.replaceChildren(
      backLink(),
      el("div", { class: "job-top" }, el("div", {}, el("h1", { text: title(job) }), this._state), this._acts),
      el("section", { class: "card", "aria-label": "Progress" }, this._bar, this._line),
      el("div", { class: "columns wide" }, card("Outcome", this._outcome), card("Errors", this._errors)),
      this._hostsCard(),
      card("Samples", this._sheet),
    );
  }

  _take(run) {
    const { job } = run;
    const old = this._run;
    this._run = run;
    setBadge(this._state, state(job));
    setActions(this._acts, job, () => this._load());
    setBar(this._bar, job, "Progress of the run");
    const left = Math.max(0, run.rows - run.successes - run.errors);
    const line = [`${format.count(run.rows - left)} of ${format.counted(run.rows, "row")}`, `${format.counted(run.hosts_total, "host")}${run.hosts_in_trouble ? `, ${format.count(run.hosts_in_trouble)} in trouble` : ""}`];
    if (!job.ended_at) line.push(`${format.number(run.rate_now || job.rows_per_s)} requests/s`, job.eta_s === null ? "time left not known yet" : `${format.duration(job.eta_s)} left`);
    if (run.rejected) line.push(`${format.counted(run.rejected, "row")} rejected`);
    setText(this._line, line.join(" · "));
    this._outcome.replaceChildren(
      ...split([{ name: "Collected", value: run.successes, kind: "one" }, { name: "Errors", value: run.errors, kind: "two" }, { name: "Left", value: left, kind: "none" }], format.count),
    );
    const codes = Object.entries(run.errors_by_code).map(([code, count]) => ({ name: meaning(code), count })).sort((one, other) => other.count - one.count);
    this._errors.replaceChildren(codes.length ? bars(codes, "Errors by kind") : el("p", { class: "muted", text: "No errors." }));
    if (!job.ended_at) this._again();
    if (old && (old.successes !== run.successes || old.errors !== run.errors)) {
      this._loadHosts();
      if (old.successes < SHEET || job.ended_at) this._loadSheet();
    }
  }

  // ---- hosts -----------------------------------------------------------------------------------------------------------

  _hostsCard() {
    this._search = el("input", { type: "search", placeholder: "Search hosts", maxlength: "253", autocomplete: "off", oninput: later(() => this._loadHosts(), 200) });
    this._rows = el("tbody");
    this._more = el("button", { type: "button", class: "quiet", hidden: true, onclick: (event) => act(event.currentTarget, () => this._loadHosts({ more: true })) }, "Show more");
    this._noHosts = el("p", { class: "muted", hidden: true }, "No host has such a name.");
    const head = ["Host", "State", "Rows", "Collected", "Errors", "Requests/s"].map((text, index) => el("th", { scope: "col", class: index > 1 ? "num" : "", text }));
    return card("Hosts", el("label", {}, el("span", { class: "sr", text: "Search hosts" }), this._search), el("div", { class: "table-box" }, el("table", { class: "rows stack" }, el("caption", { class: "sr", text: "The run by host" }), el("thead", {}, el("tr", {}, ...head)), this._rows)), this._noHosts, this._more);
  }

  async _loadHosts({ more = false } = {}) {
    const search = this._search.value.trim();
    const page = await get(`/api/collections/${part(this._id)}/hosts`, { search, limit: 100, cursor: more ? this._cursor : "" }).catch(() => null);
    if (page === null || this._closed || search !== this._search.value.trim()) return;
    this._hosts = more ? [...this._hosts, ...page.hosts] : page.hosts;
    this._cursor = page.next_cursor;
    this._more.hidden = this._cursor === null;
    this._noHosts.hidden = this._hosts.length > 0;
    keep(this._rows, this._hosts, {
      key: (host) => host.host,
      make: (host) => el("tr", {}, el("th", { scope: "row", class: "name", text: host.host }), el("td", { "data-label": "State" }), ...["Rows", "Collected", "Errors", "Requests/s"].map((label) => el("td", { class: "num", "data-label": label }, el("span")))),
      update: updateHost,
    });
  }

  // ---- samples ---------------------------------------------------------------------------------------------------------

  async _loadSheet() {
    try {
      const { samples } = await get(`/api/collections/${part(this._id)}/samples`, { limit: SHEET });
      if (this._closed) return;
      if (samples.length === 0) return this._sheet.replaceChildren(el("p", { class: "muted", text: "Pictures appear when the first batch is finished." }));
      const key = samples.map((each) => each.uuid).join(" ");
      if (this._sheet.dataset.key === key) return;
      this._sheet.dataset.key = key;
      this._sheet.replaceChildren(el("div", { class: "sheet" }, ...samples.map((each) => this._figure(each))));
    } catch (error) {
      if (!this._closed) this._sheet.replaceChildren(el("p", { class: "muted", text: `No pictures to show: ${error.cause ?? error.message}.` }));
    }
  }

  _figure(sample) {
    const address = `${base}/api/collections/${part(this._id)}/samples/${part(sample.host)}/${sample.partition}/${sample.row}`;
    const sized = sample.width ? `${sample.width}×${sample.height}` : "";
    const image = el("img", { src: address, loading: "lazy", decoding: "async", alt: `Collected from ${sample.host}` });
    const caption = el("figcaption", {}, el("span", { text: sample.host }), sized ? ` · ${sized}` : "", sample.license ? ` · ${sample.license}` : "");
    return el("figure", { title: sample.url }, el("a", { href: address, target: "_blank", rel: "noreferrer noopener", "aria-label": `Open the picture from ${sample.host}` }, image), caption);
  }
}

function updateHost(row, host) {
  const [, said, ...numbers] = row.children;
  const key = `${host.condition} ${host.left === 0}`;
  if (said.dataset.key !== key) {
    said.dataset.key = key;
    said.replaceChildren(badge(host.left === 0 && host.rows > 0 ? ["done", "ok", "Done"] : (CONDITIONS[host.condition] ?? ["unknown", "", host.condition])));
  }
  const rate = host.rate_allowed ? `${format.number(host.rate_now)} of ${format.number(host.rate_allowed)}` : format.number(host.rate_now);
  [format.count(host.rows), format.count(host.successes), format.count(host.errors), rate].forEach((text, index) => setText(numbers[index].firstElementChild, text));
  row.lastElementChild.previousElementSibling.title = Object.entries(host.errors_by_code).map(([code, count]) => `${meaning(code)}: ${format.count(count)}`).join("; ");
}

const backLink = () => el("a", { class: "back", href: location.pathname, "data-list": true }, icon("open"), "All runs");

const card = (name, ...inside) => el("section", { class: "card", "aria-label": name }, el("header", { class: "card-head" }, el("h2", { text: name })), ...inside);
