// Who brings how much of a job, and how fast each of them is now.

import { el, keep, setText } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 10;
const GONE = { lost: "lost", left: "has left" };

/** The card of a job's agents; hidden as long as none brought anything. agents: those of the fleet, by id, as they are now. */
export class JobAgents {
  constructor(box, agents) {
    this._box = box;
    this._agents = agents;
    this._all = false;
    this._detail = null;
  }

  /** The job as it is now. */
  show(detail) {
    this._detail = detail;
    const { job, agents, agents_more: left } = detail;
    this._box.hidden = agents.length === 0;
    if (agents.length === 0) return;
    if (!this._box.firstElementChild) this._build();
    // Those that brought most, by name: agents of equal speed would change places every second.
    const shown = (this._all ? [...agents] : agents.slice(0, SHOWN)).sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
    const ended = Boolean(job.ended_at);
    this._speedHead.hidden = this._hint.hidden = ended;
    keep(this._rows, shown, { key: (agent) => agent.agent_id, make: row, update: (box, agent) => this._update(box, agent, job, ended) });
    this._more.hidden = this._all || agents.length <= SHOWN;
    setText(this._more, `Show ${format.count(agents.length - SHOWN)} more`);
    this._left.hidden = left === 0 || !this._more.hidden;
    setText(this._left, `and ${format.counted(left, "agent")} more, each of which brought less`);
  }

  _build() {
    this._rows = el("tbody");
    this._speedHead = el("th", { scope: "col", class: "num", text: "Speed now" });
    this._hint = el("p", { class: "hint", text: "Speed: over everything that the agent does." });
    this._more = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this._showAll() });
    this._left = el("p", { class: "hint", hidden: true });
    const head = ["Agent", "From the origin", "Share"].map((text, index) => el("th", { scope: "col", class: index === 1 ? "num" : "", text }));
    this._box.append(
      el("header", { class: "card-head" }, el("h2", { text: "Agents" })),
      el("div", { class: "table-box" }, el("table", { class: "rows stack" }, el("caption", { class: "sr", text: "How much each agent brought" }), el("thead", {}, el("tr", {}, ...head, this._speedHead)), this._rows)),
      this._more,
      this._left,
      this._hint,
    );
  }

  _showAll() {
    this._all = true;
    this.show(this._detail);
  }

  _update(box, agent, job, ended) {
    const [, bytes, share, speed] = box.children;
    setText(bytes.firstElementChild, format.size(agent.from_origin));
    const whole = format.percent(agent.from_origin, job.bytes_from_origin);
    const [text, meter] = share.firstElementChild.children;
    setText(text, whole === 0 && agent.from_origin > 0 ? "under 1 %" : `${whole} %`);
    meter.firstElementChild.style.width = `${whole}%`;
    speed.hidden = ended;
    const known = this._agents.get(agent.agent_id);
    setText(speed.firstElementChild, known ? (GONE[known.status] ?? format.rate(known.rate_bytes_per_s)) : "not known");
  }
}

function row(agent) {
  return el(
    "tr",
    {},
    el("th", { scope: "row", class: "name" }, el("span", { text: agent.name })),
    el("td", { class: "num", "data-label": "From the origin" }, el("span")),
    el("td", { "data-label": "Share" }, el("div", { class: "measure" }, el("span"), el("div", { class: "meter", "aria-hidden": "true" }, el("span")))),
    el("td", { class: "num", "data-label": "Speed now" }, el("span")),
  );
}
