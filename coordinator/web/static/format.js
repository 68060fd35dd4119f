// Sizes, rates, durations, moments and counts as people read them. The units are those of the command line.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "unknown";
  let unit = 0;
  let value = bytes;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ${UNITS[unit]}`;
}

export const rate = (bytesPerSecond) => `${size(bytesPerSecond)}/s`;

/** A budget: 0 is none. */
export const limit = (value, show) => (value > 0 ? show(value) : "no limit");

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "unknown";
  const whole = Math.max(0, Math.round(seconds));
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, length]) => whole >= length);
  if (first < 0) return "0 s";
  let left = whole;
  const said = [];
  for (const [unit, length] of parts.slice(first, first + 2)) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0) said.push(`${count} ${unit}`);
  }
  return said.join(" ");
}

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
export const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const moment = (seconds) => MOMENT.format(new Date(seconds * 1000));

/** How long ago, in the largest unit; the day from a month on. */
export function ago(seconds, now = Date.now() / 1000) {
  const past = now - seconds;
  if (past < 45) return "just now";
  if (past < 3600) return `${Math.max(1, Math.round(past / 60))} min ago`;
  if (past < 86400) return `${Math.round(past / 3600)} h ago`;
  if (past < 30 * 86400) return `${Math.round(past / 86400)} d ago`;
  return DAY.format(new Date(seconds * 1000));
}

const COUNT = new Intl.NumberFormat();
export const count = (number) => COUNT.format(number);
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const number = (value) => (value >= 100 ? COUNT.format(Math.round(value)) : String(Number(value.toPrecision(3))));

/** Whole per cent that never says 100 before all is there. */
export function percent(done, total) {
  if (!total) return 0;
  return done >= total ? 100 : Math.min(99, Math.floor((100 * done) / total));
}

/** How copies on a NAS are doing. */
export function nasWords(nas) {
  const said = [`${count(nas.files_copied + nas.files_there)} copied`];
  if (nas.files_waiting) said.push(`${count(nas.files_waiting)} waiting (${size(nas.bytes_waiting)})`);
  if (nas.files_refused) said.push(`${count(nas.files_refused)} cannot be copied`);
  return said.join(", ") + (nas.reason ? `: ${nas.reason}` : "");
}

export const commit = (sha) => (/^[0-9a-f]{40}$/.test(sha) ? sha.slice(0, 8) : sha);
