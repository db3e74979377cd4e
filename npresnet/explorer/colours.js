// Numbers as colours: blue is negative, orange positive, and nothing is the page's own ground.
// These two can be told apart with every kind of colour blindness, and in print.

import { el, number } from "./dom.js";

const ENDS = { light: { negative: [16, 78, 160], zero: [250, 250, 248], positive: [186, 74, 0] },
               dark: { negative: [92, 168, 255], zero: [22, 24, 28], positive: [255, 160, 64] } };
const NOT_A_NUMBER = [255, 0, 200];
const SHADES = 256;                                       // colours on either side of zero

let table = null;

export function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { table = null; });

// −limit … limit → [red, green, blue]
export function colourOf(value, limit) {
  if (!Number.isFinite(value)) return NOT_A_NUMBER;
  table ??= makeTable(ENDS[isDark() ? "dark" : "light"]);
  const share = limit > 0 ? Math.max(-1, Math.min(1, value / limit)) : 0;
  return table[SHADES + Math.round(share * SHADES)];
}

// The square root brings out what is small.
function makeTable({ negative, zero, positive }) {
  return Array.from({ length: 2 * SHADES + 1 }, (_, i) => {
    const share = (i - SHADES) / SHADES, end = share < 0 ? negative : positive;
    const weight = Math.sqrt(Math.abs(share));
    return zero.map((from, band) => Math.round(from + (end[band] - from) * weight));
  });
}

export function css([r, g, b]) {
  return `rgb(${r} ${g} ${b})`;
}

// Black or white, whatever is easier to read on a colour.
export function inkOn([r, g, b]) {
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff";
}

// Give a canvas so many pixels. rgb(i): the colour of pixel i; alpha(i): 0 … 255.
export function fillPixels(canvas, width, height, rgb, alpha = () => 255) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set(rgb(i), 4 * i);
    image.data[4 * i + 3] = alpha(i);
  }
  context.putImageData(image, 0, 0);
}

// Draw one map [H, W], which begins at data[start], a pixel each. CSS makes it larger.
export function drawMap(canvas, data, start, height, width, limit) {
  fillPixels(canvas, width, height, (i) => colourOf(data[start + i], limit));
}

// The largest magnitude: the scale that all channels of a layer share.
export function largest(data) {
  let most = 0;
  for (let i = 0; i < data.length; i++) {
    const size = Math.abs(data[i]);
    if (size > most) most = size;
  }
  return most;
}

// −limit ▬▬▬ 0 ▬▬▬ limit
export function colourBar(limit, label) {
  const canvas = el("canvas", { class: "bar", "aria-hidden": "true" });
  const ramp = Float32Array.from({ length: 129 }, (_, i) => (i - 64) / 64);
  drawMap(canvas, ramp, 0, 1, 129, 1);
  return el("figure", { class: "colourbar", role: "img", "aria-label": label }, canvas,
            el("figcaption", {}, el("span", {}, number(-limit)), el("span", {}, "0"),
               el("span", {}, number(limit))));
}
