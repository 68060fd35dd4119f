// The page of the fleet: agents, hosts with their budgets, where bytes came from, the queue.

import { base, get, part, post } from "./api.js";
import { ask } from "./dialog.js";
import { byId, el, icon, keep, onceAFrame, setText } from "./dom.js";
import * as format from "./format.js";
import { changeLimits, hostRow, updateHost } from "./fleet_hosts.js";
import { setBadge, state, title } from "./job_parts.js";
import { Live } from "./live.js";
import { SpeedPlot, split } from "./plot.js";
import { act, begin, empty, showLink, toast } from "./shell.js";

const AGENT_STATES = {
  alive: ["done", "ok", "Alive"],
  late: ["waiting", "warn", "Late"],
  lost: ["failed", "bad", "Lost"],
  draining: ["drain", "warn", "Draining"],
  left: ["drain", "", "Left"],
};
const QUEUE_EVERY_MS = 3000;
const ROWS_STEP = 100;

const live = new Live();
let queueShown = ROWS_STEP;
let queue = [];

// ---- agents ----------------------------------------------------------------------------------------------------------

function agentRow(agent) {
  const cell = (label, kind = "") => el("td", { "data-label": label, class: kind }, el("span"));
  const drain = el("button", { type: "button", class: "quiet", "data-action": "drain", "aria-label": `Drain ${agent.name}`, onclick: (event) => drainAgent(event.currentTarget, agent) }, icon("drain"), "Drain");
  return el("tr", { "data-agent": agent.name }, el("th", { scope: "row" }, el("span", {}, el("span", { text: agent.name }), el("span", { class: "sub" }))), cell("State"), cell("Speed", "num"), el("td", { "data-label": "Free disk" }, el("div", { class: "measure" }, el("span"), el("div", { class: "meter", "aria-hidden": "true" }, el("span")))), el("td", { "data-label": "Work", class: "num" }, el("span"), el("span", { class: "sub" })), cell("Version"), el("td", { class: "actions" }, drain));
}

function updateAgent(row, agent) {
  const [name, said, speed, disk, work, version, actions] = row.children;
  setText(name.querySelector(".sub"), [agent.zone, agent.peer_address].filter(Boolean).join(" · "));
  setBadge(said.firstElementChild, AGENT_STATES[agent.status] ?? ["unknown", "", agent.status]);
  if (agent.cut_off && said.children.length === 1) said.append(el("span", { class: "sub", text: "sent bad bytes: nobody fetches from it" }));
  setText(speed.firstElementChild, format.rate(agent.rate_bytes_per_s));
  showDisk(disk.firstElementChild, agent);
  setText(work.firstElementChild, `${format.counted(agent.units, "piece")}, ${format.size(agent.bytes_held)}`);
  setText(work.lastElementChild, agent.nas?.files_waiting ? `NAS: ${format.nasWords(agent.nas)}` : "");
  setText(version.firstElementChild, agent.version || "unknown");
  actions.firstElementChild.hidden = agent.status !== "alive" && agent.status !== "late";
}

function showDisk(box, agent) {
  const { disk_free_bytes: free, disk_total_bytes: total } = agent;
  const [text, meter] = box.children;
  meter.hidden = !total;
  setText(text, total ? `${format.size(free)} of ${format.size(total)}` : "not told");
  if (!total) return;
  meter.firstElementChild.style.width = `${100 - (100 * free) / total}%`;
  meter.classList.toggle("bad", free < total / 20);
}

async function drainAgent(button, agent) {
  const yes = await ask({
    title: `Drain ${agent.name}?`,
    body: [el("p", { text: `It finishes the ${format.counted(agent.units, "piece")} that it holds, takes nothing new, and leaves. To have it back, start it again on its machine.` })],
    yes: "Drain it",
    picture: "drain",
  });
  if (!yes) return;
  await act(button, async () => {
    await post(`/api/agents/${part(agent.agent_id)}/drain`);
    toast(`${agent.name} drains`);
  });
}

// ---- everything ------------------------------------------------------------------------------------------------------

const draw = onceAFrame(() => {
  const { fleet, totals } = live;
  if (fleet === null) return;
  const well = [format.counted(fleet.agents_alive, "agent"), fleet.agents_late && `${fleet.agents_late} late`, fleet.agents_lost && `${fleet.agents_lost} lost`].filter(Boolean).join(", ");
  setText(byId("fleet-line"), `${well} · Shoal ${fleet.version} · up ${format.duration(fleet.uptime_s)}`);
  drawBytes(totals);
  const agents = [...live.agents.values()].sort((one, other) => one.name.localeCompare(other.name));
  keep(byId("agents"), agents, { key: (agent) => agent.agent_id, make: agentRow, update: updateAgent });
  orEmpty("agents", agents, () => empty(byId("agents-empty"), "fleet", "No agent has come yet", "Start one on this or another machine:", el("code", { text: `shoal agent --coordinator ${location.hostname}:7070` })));
  const hosts = [...live.hosts.values()].sort((one, other) => one.host.localeCompare(other.host));
  keep(byId("hosts"), hosts, { key: (host) => host.host, make: hostRow, update: updateHost });
  orEmpty("hosts", hosts, () => empty(byId("hosts-empty"), "done", "No limits, no trouble", "Hosts appear when they are asked, or when you limit one."));
});

let drawnBytes = "";
function drawBytes(totals) {
  const key = `${totals.bytes_from_origin} ${totals.bytes_from_peers} ${totals.objects_done} ${totals.objects_failed}`;
  if (key === drawnBytes) return;
  drawnBytes = key;
  const parts = [
    { name: "From the origin", value: totals.bytes_from_origin, kind: "one" },
    { name: "From other agents", value: totals.bytes_from_peers, kind: "two" },
  ];
  const files = [format.counted(totals.objects_done, "file"), totals.objects_failed && `${format.count(totals.objects_failed)} failed`].filter(Boolean).join(", ");
  byId("bytes-split").replaceChildren(...split(parts, format.size), el("p", { class: "hint", text: `${files}, over all downloads that the coordinator remembers` }));
}

function orEmpty(name, items, show) {
  byId(name).closest(".table-box").hidden = items.length === 0;
  const box = byId(`${name}-empty`);
  if (items.length) box.hidden = true;
  else if (box.hidden) show();
}

// ---- the queue -------------------------------------------------------------------------------------------------------

async function askQueue() {
  if (!document.hidden) {
    try {
      queue = (await get("/api/queue")).jobs;
      drawQueue();
    } catch {
      // The sign of the lost connection says so already.
    }
  }
  setTimeout(askQueue, QUEUE_EVERY_MS);
}

function drawQueue() {
  keep(byId("queue"), queue.slice(0, queueShown), {
    key: (job) => job.job_id,
    make: (job) => el("tr", {}, el("th", { scope: "row", class: "name" }, el("a", { href: `${base}/activity?job=${part(job.job_id)}`, text: title(job) })), el("td", { "data-label": "State" }, el("span")), ...["Priority", "Files that wait", "Bytes that wait", "Under way"].map((label) => el("td", { class: "num", "data-label": label }, el("span")))),
    update: (row, job) => {
      setBadge(row.children[1].firstElementChild, state(job));
      const texts = [String(job.priority), format.count(job.objects_waiting), format.size(job.bytes_waiting), format.counted(job.units_leased, "piece")];
      texts.forEach((text, index) => setText(row.children[index + 2].firstElementChild, text));
    },
  });
  const more = byId("queue-more");
  more.hidden = queue.length <= queueShown;
  setText(more, `Show more of ${format.count(queue.length)}`);
  orEmpty("queue", queue, () => empty(byId("queue-empty"), "done", "Nothing waits", "Every download has ended."));
}

begin(async () => {
  const plot = new SpeedPlot(byId("fleet-plot"), { what: "Speed of the fleet" });
  showLink(live);
  live.addEventListener("change", ({ detail }) => {
    if (detail.has("fleet")) plot.add({ at: live.takenAt, rate: live.fleet.rate_bytes_per_s });
    draw();
  });
  document.addEventListener("host-changed", ({ detail }) => live.take("hosts", { hosts: [detail] }));
  byId("add-host").addEventListener("click", (event) => changeLimits(event.currentTarget, null));
  byId("queue-more").addEventListener("click", () => {
    queueShown += ROWS_STEP;
    drawQueue();
  });
  live.start();
  plot.set((await get("/api/history")).samples);
  await askQueue();
});
