// The files of a job, page by page: which are done, which failed and why.

import { get, part } from "./api.js";
import { el, keep, linked, setText } from "./dom.js";
import * as format from "./format.js";
import { badge, isTable } from "./job_parts.js";
import { note } from "./shell.js";

const STEP = 100;
const STATES = { queued: ["waiting", "", "Waiting"], done: ["done", "ok", "Done"], failed: ["failed", "bad", "Failed"] };
const NOT_FETCHED = ["cancelled", "", "Not fetched"];
const REFRESH_MS = 3000;

/** The card of a job's files. It asks again, now and then, while the job goes on and the card shows its first page. */
export class JobFiles {
  constructor(box, jobId) {
    this._id = jobId;
    this._status = null; // chosen when the job is first known
    this._files = [];
    this._cursor = null;
    this._askedAt = 0;
    this._asking = false;
    this._seen = "";
    this._box = box;
  }

  /** The job as it is now. */
  note(job) {
    if (this._status === null) this._build(job);
    this._ended = Boolean(job.ended_at);
    const seen = `${job.objects_done} ${job.objects_failed} ${job.objects_total} ${job.status}`;
    if (seen === this._seen) return;
    const isFirst = this._seen === "";
    setText(this._counts.failed, `Failed (${format.count(job.objects_failed)})`);
    if (isFirst || job.ended_at || (this._files.length <= STEP && Date.now() - this._askedAt > REFRESH_MS)) {
      this._seen = seen;
      this._load();
    }
  }

  _build(job) {
    this._status = job.objects_failed > 0 ? "failed" : "";
    this._counts = {};
    const name = isTable(job) ? "Batches" : "Files";
    const choices = [["", "All"], ["queued", "Not done"], ["done", "Done"], ["failed", "Failed"]].map(([status, word]) => {
      const button = el("button", { type: "button", "aria-pressed": String(status === this._status), onclick: () => this._choose(status) }, word);
      this._counts[status] = button;
      return button;
    });
    this._rows = el("tbody");
    this._more = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this._load({ more: true }) }, "Show more");
    this._none = el("p", { class: "muted", hidden: true });
    this._trouble = el("div");
    const head = ["File", "State", "Size", "By"].map((text, index) => el("th", { scope: "col", class: index === 2 ? "num" : "", text }));
    this._box.setAttribute("aria-label", name);
    this._box.replaceChildren(
      el("header", { class: "card-head" }, el("h2", { text: name }), el("div", { class: "segments", role: "group", "aria-label": "Which files" }, ...choices)),
      this._trouble,
      el("div", { class: "table-box" }, el("table", { class: "rows stack tight" }, el("caption", { class: "sr", text: name }), el("thead", {}, el("tr", {}, ...head)), this._rows)),
      this._none,
      this._more,
    );
  }

  _choose(status) {
    this._status = status;
    for (const [name, button] of Object.entries(this._counts)) button.setAttribute("aria-pressed", String(name === status));
    this._files = [];
    this._load();
  }

  async _load({ more = false } = {}) {
    if (this._asking && !more) return;
    this._asking = true;
    this._askedAt = Date.now();
    const status = this._status;
    try {
      const page = await get(`/api/jobs/${part(this._id)}/objects`, { status, limit: STEP, cursor: more ? this._cursor : "" });
      if (status === this._status) {
        this._files = more ? [...this._files, ...page.objects] : page.objects;
        this._cursor = page.next_cursor;
        this._trouble.replaceChildren();
        this._show();
      }
    } catch (error) {
      this._trouble.replaceChildren(note(error, () => this._load()));
    } finally {
      this._asking = false;
      if (status !== this._status) this._load();
    }
  }

  _show() {
    keep(this._rows, this._files, { key: (file) => file.object_id, make: row, update: (box, file) => updateRow(box, file, this._ended) });
    this._more.hidden = this._cursor === null;
    this._none.hidden = this._files.length > 0;
    setText(this._none, { failed: "Nothing failed.", queued: "Nothing waits.", done: "Nothing is done yet." }[this._status] ?? "No files are known yet.");
  }
}

function row(file) {
  return el("tr", {}, el("th", { scope: "row", class: "name" }, el("span", { text: file.path })), el("td", { "data-label": "State" }), el("td", { class: "num", "data-label": "Size" }, el("span")), el("td", { class: "muted", "data-label": "By" }, el("span")));
}

function updateRow(box, file, ended) {
  const [, status, size, by] = box.children;
  const said = `${file.status} ${file.skipped} ${file.failures} ${ended}`;
  if (status.dataset.said !== said) {
    status.dataset.said = said;
    status.replaceChildren(badge(file.skipped ? ["done", "ok", "There before"] : ended && file.status === "queued" ? NOT_FETCHED : STATES[file.status]));
    box.querySelector(".why")?.remove();
    if (file.failure && file.status !== "done") {
      const tries = file.failures > 1 ? ` (tried ${format.count(file.failures)} times)` : "";
      box.firstElementChild.append(el("span", { class: "sub why" }, linked(file.failure.text), tries));
    }
  }
  setText(size.firstElementChild, format.size(file.size));
  setText(by.firstElementChild, file.agent);
}
