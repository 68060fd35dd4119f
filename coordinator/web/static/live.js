// What changes, as the coordinator tells it: server-sent events, and polling where they do not get through.

import { base, forgetSession, get, toLogin, whoAsks } from "./api.js";

const SILENT_MS = 8000; // "fleet" comes every second: a stream that says nothing for so long is broken
const AGAIN_MS = 2000;
const POLL_MS = 2000;
const ENDED_KEPT = 500;

/**
 * The fleet as this page knows it. Emits "change" (detail: the set of what changed: fleet, jobs, agents, hosts, job) and "link"
 * (detail: live, polling or lost). Reads while the page is visible.
 */
export class Live extends EventTarget {
  constructor({ job = "" } = {}) {
    super();
    this.fleet = null;
    this.totals = null;
    this.takenAt = 0;
    this.jobs = new Map(); // by id; ended ones only if they ended while we looked
    this.jobsMore = 0;
    this.agents = new Map();
    this.hosts = new Map();
    this.detail = null;
    this.link = "live";
    this._job = job;
    this._lastId = "";
    this._stream = null;
    this._polling = false;
    this._timers = {};
    document.addEventListener("visibilitychange", () => (document.hidden ? this._stop() : this._open()));
    addEventListener("pagehide", () => this._stop());
    addEventListener("pageshow", (event) => event.persisted && this._open());
  }

  start() {
    if (!document.hidden) this._open();
    return this;
  }

  /** Follow the details of one job as well; "" of none. */
  follow(job) {
    if (job === this._job) return;
    this._job = job;
    this.detail = null;
    if (!document.hidden) this._open();
  }

  _open() {
    this._closeStream();
    const query = new URLSearchParams();
    if (this._job) query.set("job", this._job);
    if (this._lastId) query.set("last_event_id", this._lastId);
    const stream = (this._stream = new EventSource(`${base}/api/events?${query}`));
    for (const kind of ["snapshot", "fleet", "jobs", "agents", "hosts", "job"]) {
      stream.addEventListener(kind, (event) => {
        if (event.lastEventId) this._lastId = event.lastEventId;
        this._watch(stream);
        this._stopPolling();
        this._tell("live");
        this.take(kind, JSON.parse(event.data));
      });
    }
    stream.addEventListener("error", () => this._broken(stream));
    this._watch(stream);
  }

  _stop() {
    this._closeStream();
    this._stopPolling();
  }

  _closeStream() {
    this._stream?.close();
    this._stream = null;
    clearTimeout(this._timers.silent);
    clearTimeout(this._timers.again);
  }

  _watch(stream) {
    clearTimeout(this._timers.silent);
    this._timers.silent = setTimeout(() => this._broken(stream), SILENT_MS);
  }

  /** The stream broke: look by asking until a new one stands. */
  _broken(stream) {
    if (stream !== this._stream) return;
    this._closeStream();
    this._timers.again = setTimeout(() => this._open(), AGAIN_MS);
    if (!this._polling) {
      this._polling = true;
      this._poll();
    }
  }

  _stopPolling() {
    this._polling = false;
    clearTimeout(this._timers.poll);
  }

  async _poll() {
    try {
      const status = await get("/api/status");
      const detail = this._job ? await get(`/api/jobs/${encodeURIComponent(this._job)}`) : null;
      if (!this._polling) return;
      this._tell("polling");
      this.take("snapshot", status);
      if (detail) this.take("job", detail);
    } catch (error) {
      if (error.status === 401 || !this._polling) return;
      this._tell(error.status === 404 ? "polling" : "lost");
      if (error.status === 404) this._job = "";
      await this._checkLogin();
    }
    if (this._polling) this._timers.poll = setTimeout(() => this._poll(), POLL_MS);
  }

  async _checkLogin() {
    forgetSession();
    const { login_required: required } = await whoAsks().catch(() => ({}));
    if (required) toLogin();
  }

  _tell(link) {
    if (link === this.link) return;
    this.link = link;
    this.dispatchEvent(new CustomEvent("link", { detail: link }));
  }

  /** Take what an event says. */
  take(kind, value) {
    const changed = new Set();
    if (value.fleet) {
      this.fleet = value.fleet;
      this.totals = value.totals;
      this.takenAt = value.taken_at;
      changed.add("fleet");
    }
    if (kind === "snapshot") {
      for (const [id, job] of this.jobs) if (!job.ended_at) this.jobs.delete(id);
      this.jobsMore = value.jobs_more;
      if (value.agents) this.agents.clear();
      if (value.hosts) this.hosts.clear();
      changed.add("jobs");
    }
    if (kind === "job") {
      this.detail = value; // its agents are what they brought, not how they are
      this.jobs.set(value.job.job_id, value.job);
      changed.add("job");
    } else {
      for (const job of value.jobs ?? []) this.jobs.set(job.job_id, job);
      for (const agent of value.agents ?? []) this.agents.set(agent.agent_id, agent);
      for (const host of value.hosts ?? []) this.hosts.set(host.host, host);
      for (const name of ["jobs", "agents", "hosts"]) if (value[name]) changed.add(name);
    }
    this._forgetOld();
    this.dispatchEvent(new CustomEvent("change", { detail: changed }));
  }

  _forgetOld() {
    if (this.jobs.size <= 2 * ENDED_KEPT) return;
    const ended = [...this.jobs.values()].filter((job) => job.ended_at).sort((one, other) => one.ended_at - other.ended_at);
    for (const job of ended.slice(0, -ENDED_KEPT)) this.jobs.delete(job.job_id);
  }
}
