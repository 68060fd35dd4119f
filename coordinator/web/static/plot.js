// Plots: a quantity over time with axes, and counts as bars. Drawn as SVG; the same is said as text.

import { el, svg } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 152;
const LEFT = 68;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;
const GAP_S = 4; // samples farther apart than this many intervals are not joined

/** A plot of samples ({at: seconds, rate}) in a box. show: a rate as text; what: its name for screen readers. */
export class SpeedPlot {
  constructor(box, { show = format.rate, what = "Speed over time", step = bytesStep, most = 600 } = {}) {
    this._box = box;
    this._show = show;
    this._what = what;
    this._step = step;
    this._most = most;
    this._samples = [];
    this._drawn = "";
    new ResizeObserver(() => this.draw()).observe(box);
  }

  set(samples) {
    this._samples = samples.slice(-this._most);
    this.draw();
  }

  /** One more sample; the oldest goes when there are many. */
  add(sample) {
    const last = this._samples.at(-1);
    if (last && sample.at - last.at < 0.5) return;
    this._samples.push(sample);
    if (this._samples.length > this._most) this._samples.shift();
    this.draw();
  }

  draw() {
    const width = this._box.clientWidth;
    if (width === 0) return;
    const samples = this._samples;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": this._said() });
    if (samples.length < 2) {
      const text = svg("text", { class: "none", x: width / 2, y: HEIGHT / 2 });
      text.textContent = "Nothing has moved yet";
      picture.append(text);
    } else {
      this._axes(picture, width);
      this._curve(picture, width);
    }
    this._box.replaceChildren(picture);
  }

  _said() {
    const samples = this._samples;
    if (samples.length < 2) return `${this._what}: nothing yet`;
    const top = Math.max(...samples.map((each) => each.rate));
    const last = samples.at(-1);
    return `${this._what}, ${format.duration(last.at - samples[0].at)}: now ${this._show(last.rate)}, at most ${this._show(top)}`;
  }

  _scale(width) {
    const samples = this._samples;
    const first = samples[0].at;
    const span = Math.max(1, samples.at(-1).at - first);
    const step = this._step(Math.max(...samples.map((each) => each.rate), 1));
    const top = step * Math.max(1, Math.ceil(Math.max(...samples.map((each) => each.rate)) / step));
    return {
      first, span, step, top,
      x: (at) => LEFT + ((at - first) / span) * (width - LEFT - RIGHT),
      y: (rate) => TOP + (1 - rate / top) * (HEIGHT - TOP - BOTTOM),
    };
  }

  _axes(picture, width) {
    const { first, span, step, top, x, y } = this._scale(width);
    for (let rate = 0; rate <= top + step / 2; rate += step) {
      picture.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(rate), y2: y(rate) }));
      picture.append(label(this._show(rate), LEFT - 8, y(rate) + 4, "end"));
    }
    const clock = span < 300 ? format.clockSeconds : format.clock;
    const parts = Math.max(1, Math.min(5, Math.floor((width - LEFT) / 120)));
    for (let part = 0; part <= parts; part += 1) {
      const at = first + (span * part) / parts;
      const anchor = part === 0 ? "start" : part === parts ? "end" : "middle";
      picture.append(label(clock.format(new Date(at * 1000)), x(at), HEIGHT - 6, anchor));
    }
  }

  _curve(picture, width) {
    const { x, y } = this._scale(width);
    const samples = this._samples;
    const gaps = samples.slice(1).map((each, index) => each.at - samples[index].at).sort((one, other) => one - other);
    const far = GAP_S * (gaps[Math.floor(gaps.length / 2)] || 1);
    let run = [];
    const runs = [run];
    samples.forEach((each, index) => {
      if (index > 0 && each.at - samples[index - 1].at > far) runs.push((run = []));
      run.push(`${x(each.at).toFixed(1)} ${y(each.rate).toFixed(1)}`);
    });
    for (const points of runs.filter((each) => each.length > 1)) {
      const ends = [points[0].split(" ")[0], points.at(-1).split(" ")[0]];
      picture.append(svg("path", { class: "area", d: `M${ends[0]} ${y(0)}L${points.join("L")}L${ends[1]} ${y(0)}Z` }));
      picture.append(svg("path", { class: "line", d: `M${points.join("L")}` }));
    }
  }
}

function label(text, x, y, anchor) {
  const made = svg("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

/** The step of an axis in bytes: 1, 2 or 5 times a power of ten of a unit, about three steps in all. */
export function bytesStep(top) {
  const unit = 1024 ** Math.floor(Math.log(top) / Math.log(1024));
  return unit * plainStep(top / unit);
}

/** The step of an axis of plain numbers. */
export function plainStep(top) {
  const rough = top / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
}

/** Counts as bars, the largest first: [{name, count}]. what: of what. */
export function bars(items, what) {
  const most = Math.max(1, ...items.map((each) => each.count));
  const list = el("ul", { class: "bars", "aria-label": what });
  for (const { name, count } of items) {
    const fill = el("span");
    fill.style.width = `${(100 * count) / most}%`;
    list.append(el("li", {}, el("span", { text: name }), el("div", { class: "track", "aria-hidden": "true" }, fill), el("span", { class: "num", text: format.count(count) })));
  }
  return list;
}

/** Parts of a whole as one bar with a legend: [{name, value, kind: one|two|three|none}]. show: a value as text. */
export function split(parts, show) {
  const whole = parts.reduce((sum, each) => sum + each.value, 0);
  const bar = el("div", { class: "split", "aria-hidden": "true" });
  const legend = el("div", { class: "legend" });
  for (const { name, value, kind } of parts) {
    const fill = el("span", { class: kind });
    fill.style.flexGrow = whole ? value / whole : 0;
    bar.append(fill);
    const share = whole ? ` (${Math.round((100 * value) / whole)} %)` : "";
    legend.append(el("div", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), el("span", { text: name }), el("span", { class: "num", text: show(value) + share })));
  }
  return [bar, legend];
}
