// The page to download: look inside a source, pick, choose where to, start.

import { base, get, post } from "./api.js";
import { byId, el, later } from "./dom.js";
import * as format from "./format.js";
import { Live } from "./live.js";
import { Picks } from "./download_picks.js";
import { act, begin, note, remark, showLink, wait } from "./shell.js";

const FOLDER_KEY = "shoal.folder"; // the folder that the last download went below
const RESERVE = 64 << 20; // bytes that a file system should have left

let found = null;
let picks = null;
let room = null; // {free_bytes, …}, an error, or null while it is asked
let looking = null;
let asked = 0;

const picked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

/** The credentials that a store is asked with; other sources need none. */
const profile = () => (byId("profile-field").hidden ? "" : byId("profile").value.trim());

const showProfile = () => (byId("profile-field").hidden = !/^s3:/i.test(byId("uri").value.trim()));

async function look(text) {
  const uri = text.trim();
  if (!uri) return;
  looking?.abort();
  const mine = (looking = new AbortController());
  history.replaceState(null, "", `?uri=${encodeURIComponent(uri)}`);
  byId("begin").hidden = true;
  byId("pick").hidden = true;
  byId("look-state").replaceChildren(wait("Looking inside …"));
  try {
    found = await get("/api/inspect", { uri, profile: profile() }, { signal: mine.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    const shown = note(error, () => look(uri));
    if (error.status === 403 && /gated/.test(error.cause)) shown.querySelector("strong").textContent = `${error.thing}: ask for access first`;
    byId("look-state").replaceChildren(shown);
    return;
  }
  if (mine !== looking) return;
  byId("look-state").replaceChildren(el("p", { class: "sr", text: `Found ${format.counted(found.files_total, "file")}.` }));
  showFound();
}

function showFound() {
  byId("found-name").textContent = found.repo_id || found.uri;
  const facts = [
    `${format.counted(found.files_total, "file")}${found.cut ? " and more" : ""}`,
    format.size(found.bytes_total),
    found.commit && `${found.revision || "main"} @ ${format.commit(found.commit)}`,
  ];
  byId("found-facts").textContent = facts.filter(Boolean).join(" · ");
  byId("found-notes").replaceChildren(...notes());
  picks = new Picks(found, showSum);
  picks.show();
  const isHub = found.uri.startsWith("hf://");
  byId("place-cache").hidden = !isHub;
  setPlace(isHub ? "hf-cache" : "folder");
  byId("pick").hidden = false;
  askRoom();
}

function notes() {
  const shown = found.warnings.map((text) => remark("warn", text));
  if (found.cut) shown.push(remark("warn", "There are more files than were looked at", el("span", { text: "Everything fetches them all." })));
  if (found.refused.length) {
    const names = el("ul", {}, ...found.refused.slice(0, 20).map(({ name, reason }) => el("li", {}, el("code", { text: name }), ` ${reason}`)));
    shown.push(remark("warn", `${format.counted(found.refused.length, "file")} cannot be written safely and will be left out`, names));
  }
  if (found.files_total === 0) shown.push(remark("warn", "There are no files here"));
  return shown;
}

// ---- where to --------------------------------------------------------------------------------------------------------

function setPlace(place) {
  document.querySelector(`input[name="place"][value="${place}"]`).checked = true;
  const folder = byId("folder");
  const below = localStorage.getItem(FOLDER_KEY);
  const name = (found.repo_id || found.uri).replace(/\/+$/, "").split("/").pop().split("?")[0];
  if (!folder.value || folder.dataset.proposed === folder.value) {
    folder.value = below && name ? `${below}/${name}` : "";
    folder.dataset.proposed = folder.value;
  }
  showPlace();
}

function showPlace() {
  const isFolder = picked("place") === "folder";
  byId("folder-field").hidden = !isFolder;
  byId("folder").required = isFolder;
}

const destination = () => (picked("place") === "hf-cache" ? "hf-cache" : byId("folder").value.trim());

async function askRoom() {
  asked += 1;
  const mine = asked;
  const to = destination();
  room = null;
  if (to || picked("place") === "hf-cache") {
    const answer = await get("/api/space", { destination: to }).catch((error) => error);
    if (mine !== asked) return;
    room = answer;
  }
  showSum();
}

function showSum() {
  const { files, bytes } = picks.sum;
  const nothing = picks.include === null || files === 0;
  const text = byId("sum-space");
  const meter = byId("space-meter");
  byId("sum-picked").textContent = nothing ? "Nothing is picked" : `${format.counted(files, "file")}, ${format.size(bytes)}`;
  const known = room !== null && !(room instanceof Error);
  const fits = !known || bytes + RESERVE <= room.free_bytes;
  const copies = picked("delivery") === "replicate" ? " on the coordinator's machine; every agent looks for itself" : "";
  if (room instanceof Error) text.textContent = `${room.cause}${room.remedy ? ` (${room.remedy})` : ""}`;
  else if (!known) text.textContent = destination() ? "Looking for free space …" : "Name a folder";
  else if (!room.writable) text.textContent = `${format.size(room.free_bytes)} free${copies}; ${room.path} cannot be written to by the coordinator's user`;
  else if (!fits) text.textContent = `Does not fit: ${format.size(room.free_bytes)} free in ${room.path}, ${format.size(bytes + RESERVE - room.free_bytes)} too little${copies}`;
  else text.textContent = `${format.size(room.free_bytes)} free in ${room.path}${copies}`;
  text.classList.toggle("bad", !fits || room instanceof Error || (known && !room.writable));
  meter.hidden = !known;
  if (known) {
    meter.classList.toggle("bad", !fits);
    meter.firstElementChild.style.width = `${Math.min(100, (100 * bytes) / Math.max(1, room.free_bytes))}%`;
    meter.setAttribute("aria-label", `${format.percent(bytes, room.free_bytes)} % of the free space`);
  }
  byId("start").disabled = nothing || (picked("place") === "folder" && !destination());
}

async function start(event) {
  event.preventDefault();
  const body = {
    uris: [found.uri],
    destination: destination(),
    delivery: picked("delivery"),
    include: picks.include,
    priority: Number(byId("priority").value) || 0,
    name: byId("job-name").value.trim(),
    profile: profile(),
    sha256: byId("sha256").value.trim(),
    unpack: byId("unpack").checked ? "auto" : "",
    force: byId("force").checked,
  };
  await act(byId("start"), async () => {
    const { jobs } = await post("/download", body);
    if (body.destination.startsWith("/")) localStorage.setItem(FOLDER_KEY, body.destination.replace(/\/[^/]*\/?$/, ""));
    location.assign(`${base}/activity?job=${encodeURIComponent(jobs[0].job.job_id)}`);
  });
}

// ---- begin -----------------------------------------------------------------------------------------------------------

async function showFolders() {
  const { allowed, hub_cache: cache, used } = await get("/api/destinations");
  byId("cache-path").textContent = cache;
  byId("folders").replaceChildren(...[...new Set([...allowed, ...used])].map((value) => el("option", { value })));
  if (allowed.length && !localStorage.getItem(FOLDER_KEY)) localStorage.setItem(FOLDER_KEY, allowed[0]);
}

begin(async () => {
  const input = byId("uri");
  byId("look").addEventListener("submit", (event) => {
    event.preventDefault();
    look(input.value);
  });
  input.addEventListener("input", showProfile);
  input.addEventListener("paste", () =>
    setTimeout(() => {
      showProfile();
      look(input.value);
    }),
  );
  byId("pick").addEventListener("submit", start);
  byId("pick").addEventListener("change", (event) => {
    if (event.target.name === "place") {
      showPlace();
      askRoom();
      if (event.target.value === "folder") byId("folder").focus();
    } else if (event.target.name === "delivery") showSum();
  });
  const askSoon = later(askRoom, 250);
  byId("folder").addEventListener("input", () => {
    room = null;
    askSoon();
    showSum();
  });
  const live = new Live();
  showLink(live);
  live.start();
  await showFolders();
  const given = new URLSearchParams(location.search).get("uri");
  if (given) {
    input.value = given;
    showProfile();
    look(given);
  } else input.focus();
});
