// What a job looks like, wherever it is shown: its state, its progress in words, what can be done to it.

import { part, post } from "./api.js";
import { ask } from "./dialog.js";
import { el, icon, setText } from "./dom.js";
import * as format from "./format.js";
import { act, toast } from "./shell.js";

const STATES = {
  planning: ["waiting", "", "Listing files"],
  preparing: ["waiting", "", "Preparing"],
  running: ["running", "run", "Downloading"],
  finalizing: ["running", "run", "Finishing"],
  done: ["done", "ok", "Done"],
  failed: ["failed", "bad", "Failed"],
  cancelled: ["cancelled", "", "Cancelled"],
};

/** The job's state: [picture, colour, word]. Said by picture and word; the colour only helps. */
export function state(job) {
  if (job.paused && !job.ended_at) return ["paused", "warn", "Paused"];
  if (job.status === "running" && isTable(job)) return ["running", "run", "Collecting"];
  return STATES[job.status] ?? ["unknown", "", job.status];
}

export function badge([picture, colour, word]) {
  return el("span", { class: `badge ${colour}`, "data-word": word }, icon(picture), word);
}

/** Put a badge into a box, if it says anything new. */
export function setBadge(box, said) {
  if (box.firstElementChild?.dataset.word !== said[2]) box.replaceChildren(badge(said));
}

export const isTable = (job) => job.delivery === "dataset";

/** What people call the job. */
export const title = (job) => job.name || job.uri.replace(/^hf:\/\/(models\/)?/, "");

/** How much is there, as [done, total, per cent]. */
export function done(job) {
  const [some, all] = isTable(job) ? [job.rows_done, job.rows_total] : [job.bytes_arrived, job.bytes_total];
  const whole = job.status === "done" ? 100 : Math.min(all > 0 || !job.ended_at ? format.percent(some, all) : 0, 99);
  return [some, all, whole];
}

export function bar() {
  return el("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, el("span"));
}

export function setBar(box, job, label) {
  const whole = done(job)[2];
  box.className = `bar ${job.status === "failed" ? "bad" : job.status === "done" ? "ok" : job.paused || job.ended_at ? "still" : ""}`;
  box.firstElementChild.style.width = `${whole}%`;
  box.setAttribute("aria-valuenow", whole);
  box.setAttribute("aria-label", label);
}

/** The job in numbers, as short texts; the first is the progress. */
export function figures(job) {
  const [some, all, whole] = done(job);
  const said = [];
  if (isTable(job)) said.push(`${whole} %`, `${format.count(some)} of ${format.counted(all, "row")}`);
  else if (job.status === "done") said.push(format.size(some), format.counted(job.objects_done, "file"));
  else if (all > 0) said.push(`${whole} %`, `${format.size(some)} of ${format.size(all)}`, `${format.count(job.objects_done)} of ${format.counted(job.objects_total, "file")}`);
  if (job.objects_failed) said.push(`${format.count(job.objects_failed)} failed`);
  if (!job.ended_at && !job.paused) {
    const speed = isTable(job) ? job.rows_per_s : job.rate_bytes_per_s;
    if (speed > 0) said.push(isTable(job) ? `${format.number(speed)} rows/s` : format.rate(speed));
    if (job.eta_s !== null) said.push(`${format.duration(job.eta_s)} left`);
  }
  if (job.ended_at) said.push(`took ${format.duration(job.ended_at - job.created_at)}`, format.ago(job.ended_at));
  if (job.priority) said.push(`priority ${job.priority}`);
  return said;
}

/** Show texts in a line, the first one strong; elements stay as they are. */
export function setLine(box, texts) {
  while (box.children.length > texts.length) box.lastElementChild.remove();
  texts.forEach((text, index) => {
    const child = box.children[index] ?? box.appendChild(el(index ? "span" : "b"));
    setText(child, text);
  });
}

const ACTIONS = {
  pause: ["paused", "Pause"],
  resume: ["play", "Resume"],
  cancel: ["failed", "Cancel"],
  retry: ["retry", "Retry"],
};

/** What can be done to the job now. */
export function possible(job) {
  if (job.ended_at) return job.status === "done" && !job.objects_failed ? [] : ["retry"];
  return [job.paused ? "resume" : "pause", "cancel"];
}

/** Buttons for what can be done. They are made anew only when that changes. again: called with the job as it is then. */
export function setActions(box, job, again, { named = true } = {}) {
  const wanted = possible(job).join(" ");
  if (box.dataset.wanted === wanted) return;
  const hadFocus = box.contains(document.activeElement);
  box.dataset.wanted = wanted;
  box.replaceChildren(
    ...possible(job).map((action) => {
      const [picture, word] = ACTIONS[action];
      const label = named ? undefined : `${word} ${title(job)}`;
      return el("button", { type: "button", class: named ? "" : "quiet", "aria-label": label, "data-action": action, onclick: (event) => control(event.currentTarget, job, action, again) }, icon(picture), word);
    }),
  );
  if (hadFocus) box.querySelector("button")?.focus();
}

async function control(button, job, action, again) {
  if (action === "cancel" && !(await sure(job))) return;
  await act(button, async () => {
    const changed = await post(`/api/jobs/${part(job.job_id)}/${action}`);
    toast(`${title(job)}: ${state(changed)[2].toLowerCase()}`);
    again(changed);
  });
}

function sure(job) {
  const [, , whole] = done(job);
  return ask({
    title: `Cancel ${title(job)}?`,
    body: [
      el("p", { text: `${whole} % is there. Files that are finished stay where they are; what is half-fetched goes.` }),
      el("p", { class: "muted", text: "To go on later instead, pause it." }),
    ],
    yes: "End it",
    no: "Keep it",
    picture: "cancelled",
    danger: true,
  });
}
