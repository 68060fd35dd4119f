// The chunk map of a file: which parts of it are on disk. A canvas, with the same in words.

import { setAttribute } from "./dom.js";

const CELL_PX = 5;

/** Draw digits (0 nothing to 9 all of it) into a canvas. Redrawn only when something changed. */
export function drawMap(canvas, digits, done) {
  const width = canvas.clientWidth;
  const ratio = devicePixelRatio || 1;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const drawn = `${digits}|${width}|${ratio}|${dark}`;
  setAttribute(canvas, "aria-label", said(digits, done));
  if (width === 0 || canvas.dataset.drawn === drawn) return;
  canvas.dataset.drawn = drawn;
  const height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const style = getComputedStyle(document.documentElement);
  const brush = canvas.getContext("2d");
  brush.scale(ratio, ratio);
  brush.fillStyle = style.getPropertyValue("--sunken");
  brush.fillRect(0, 0, width, height);
  brush.fillStyle = style.getPropertyValue("--plot");
  const cell = width / digits.length;
  const gap = cell > CELL_PX ? 1 : 0;
  for (let index = 0; index < digits.length; index += 1) {
    const full = Number(digits[index]) / 9;
    // How full a cell is shows in its height, not in its shade alone.
    if (full > 0) brush.fillRect(index * cell, height * (1 - full), Math.max(cell - gap, 0.5), height * full);
  }
}

function said(digits, done) {
  const gaps = (digits.match(/[0-8]+/g) ?? []).length;
  return `Chunk map: ${done} % is on disk${gaps > 1 ? `, ${gaps} gaps` : ""}`;
}
