// Hosts: what the fleet may ask of each, what it met there, and the dialog that changes the limits.

import { part, post } from "./api.js";
import { ask } from "./dialog.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { setBadge } from "./job_parts.js";
import { act, toast } from "./shell.js";

const MIB = 2 ** 20;
const CONDITIONS = {
  open: ["done", "ok", "Open"],
  "half-open": ["waiting", "warn", "Probing"],
  blocked: ["paused", "warn", "Waiting"],
  parked: ["failed", "bad", "Parked"],
};
const MEANINGS = {
  "half-open": "one request finds out whether it answers again",
  blocked: "it asked to wait",
  parked: "it refused too often, or cannot be reached",
};

const hosts = new Map(); // as shown last, by name: what a button's row is about

export function hostRow(host) {
  const cell = (label, kind = "") => el("td", { "data-label": label, class: kind }, el("span"));
  const change = el("button", { type: "button", class: "quiet", "data-action": "limits", "aria-label": `Change the limits of ${host.host}`, onclick: (event) => changeLimits(event.currentTarget, hosts.get(host.host)) }, "Change");
  return el("tr", { "data-host": host.host }, el("th", { scope: "row", class: "name", text: host.host }), el("td", { "data-label": "State" }, el("span", {}, el("span"), el("span", { class: "sub" }))), cell("Requests/s", "num"), cell("Bandwidth", "num"), cell("Connections", "num"), cell("Answers"), el("td", { class: "actions" }, change));
}

export function updateHost(row, host) {
  hosts.set(host.host, host);
  const [, said, requests, bandwidth, connections, answers] = row.children;
  setBadge(said.firstElementChild.firstElementChild, CONDITIONS[host.condition] ?? ["unknown", "", host.condition]);
  const why = [MEANINGS[host.condition], host.blocked_s > 0 && `${format.duration(host.blocked_s)} more`].filter(Boolean).join(", ");
  setText(said.querySelector(".sub"), why);
  const most = host.rate_now || host.requests_per_s;
  const measured = host.rate_measured > 0 ? `${format.number(host.rate_measured)}${most > 0 ? " of " : ", "}` : "";
  setText(requests.firstElementChild, `${measured}${format.limit(most, format.number)}`);
  setText(bandwidth.firstElementChild, format.limit(host.bytes_per_s, format.rate));
  setText(connections.firstElementChild, format.limit(host.connections, format.count));
  const met = [
    [host.ok, "good"],
    [host.throttled, "throttled"],
    [host.refused, "refused"],
    [host.timeouts, "timed out"],
    [host.unreachable, "unreachable"],
    [host.errors, "other errors"],
  ].filter(([count]) => count > 0);
  setText(answers.firstElementChild, met.map(([count, word]) => `${format.count(count)} ${word}`).join(", ") || "none yet");
}

/** Change the limits of a host, or of one that is named in the dialog. The page hears of it as "host-changed". */
export async function changeLimits(button, host) {
  const input = (value, more = {}) => el("input", { type: "number", min: "0", step: "any", value: String(value), required: true, ...more });
  const fields = [
    { id: "requests", label: "Requests per second", input: input(host?.requests_per_s ?? 0), hint: "Of the whole fleet; 0 is no limit." },
    { id: "bytes", label: "Bandwidth in MiB/s", input: input(Number(((host?.bytes_per_s ?? 0) / MIB).toFixed(3))), hint: "Of the whole fleet; 0 is no limit." },
    { id: "connections", label: "Connections", input: input(host?.connections ?? 0, { step: "1", max: "10000" }), hint: "Requests under way at once; 0 is no limit." },
  ];
  if (host === null) fields.unshift({ id: "host", label: "Host", input: el("input", { type: "text", required: true, maxlength: "253", autocapitalize: "off", spellcheck: "false", placeholder: "huggingface.co" }) });
  const given = await ask({ title: host ? `Limits of ${host.host}` : "Limit a host", fields, yes: "Set limits" });
  if (!given) return;
  const name = host ? host.host : given.host.trim().toLowerCase();
  await act(button, async () => {
    const changed = await post(`/api/hosts/${part(name)}/rate`, { requests_per_s: Number(given.requests), bytes_per_s: Math.round(Number(given.bytes) * MIB), connections: Number(given.connections) });
    document.dispatchEvent(new CustomEvent("host-changed", { detail: changed }));
    toast(`${name}: limits are set, from now on and after restarts`);
  });
}
