// The photograph as the network sees it: decoding, what experiments do to its pixels, its panel.

import { colourOf, fillPixels } from "./colours.js";
import { ARROWS, el, pixelAt, svg, within } from "./dom.js";
import { PIXELS, seenBy } from "./layers.js";
import { overWhite } from "./preprocessing.js";
import { t } from "./text.js";

const GREY = 128;                                         // close to 0 once it is normalised

// The bytes of a picture → {width, height, data} with 3 bytes a pixel, upright, over white. Colour
// profiles are left out, as Pillow does. Throws an Error that says what to do.
export async function decode(bytes) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]),
                                     { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(t("photo.unreadable"));
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return overWhite(context.getImageData(0, 0, canvas.width, canvas.height));
}

// --- what experiments do to the pixels -----------------------------------------------------------

export const UNTOUCHED = { mirror: false, turn: 0, marks: [] };

// Pixels → new pixels: mirrored, turned (degrees, clockwise), and painted over. A mark is
// {square: edge, row, column, of} of grey, or {dot: radius, row, column, colour, of}; of: the width
// of the picture on which it was made.
export function applyEdits(pixels, { mirror, turn, marks }) {
  const out = { ...pixels, data: Uint8Array.from(pixels.data) };
  if (mirror) exchangeSides(out, pixels);
  if (turn % 360) rotate(out, turn);
  for (const mark of marks) stamp(out, mark);
  return out;
}

function exchangeSides(out, { width, height, data }) {
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const from = 3 * (row * width + width - 1 - column);
      out.data.set(data.subarray(from, from + 3), 3 * (row * width + column));
    }
  }
}

// Around the middle, between the four nearest pixels; quarter turns are exact. Corners become grey.
function rotate(out, degrees) {
  const { width, height } = out, source = Uint8Array.from(out.data);
  const angle = degrees * Math.PI / 180;
  const cos = snap(Math.cos(angle)), sin = snap(Math.sin(angle));
  const middleRow = (height - 1) / 2, middleColumn = (width - 1) / 2;
  const at = (i, j, c) => i < 0 || j < 0 || i >= height || j >= width
    ? GREY : source[3 * (i * width + j) + c];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const dy = row - middleRow, dx = column - middleColumn;
      const y = middleRow + cos * dy - sin * dx, x = middleColumn + sin * dy + cos * dx;
      const i = Math.floor(y), j = Math.floor(x), v = y - i, u = x - j;
      for (let c = 0; c < 3; c++) {
        const above = at(i, j, c) * (1 - u) + at(i, j + 1, c) * u;
        const below = at(i + 1, j, c) * (1 - u) + at(i + 1, j + 1, c) * u;
        out.data[3 * (row * width + column) + c] = Math.round(above * (1 - v) + below * v);
      }
    }
  }
}

function snap(value) {
  return Math.abs(value - Math.round(value)) < 1e-9 ? Math.round(value) : value;
}

function stamp(out, { square, dot, of = out.width, colour = [GREY, GREY, GREY], ...place }) {
  const scale = out.width / of, reach = scale * (square ? square / 2 : dot);
  const row = scale * place.row, column = scale * place.column;
  const first = (middle) => Math.max(0, Math.ceil(middle - reach));
  for (let i = first(row); i < Math.min(out.height, row + reach); i++) {
    for (let j = first(column); j < Math.min(out.width, column + reach); j++) {
      if (square || (i - row) ** 2 + (j - column) ** 2 < reach * reach) {
        out.data.set(colour, 3 * (i * out.width + j));
      }
    }
  }
}

// --- the panel -----------------------------------------------------------------------------------

export class PhotoPanel {
  constructor(app, root) {
    this.app = app;
    this.cursor = null;
    this.canvas = el("canvas", { class: "photo", tabindex: 0, role: "application" });
    this.heat = el("canvas", { class: "heat", "aria-hidden": "true" });
    this.marks = svg("svg", { class: "marks", "aria-hidden": "true" });
    this.note = el("p", { class: "note", "aria-live": "polite" });
    this.tool = el("select", { id: "tool", onchange: () => this.render() },
                   ...["look", "cover", "paint"].map((tool) =>
                     el("option", { value: tool }, t(`photo.tool.${tool}`))));
    this.size = el("input", { id: "tool-size", type: "range", min: 4, max: 96, value: 40,
                              oninput: () => this.drawMarks() });
    this.colour = el("input", { id: "tool-colour", type: "color", value: "#d01c1c" });
    root.append(el("div", { class: "stack padded" }, this.canvas, this.heat, this.marks), this.note,
                el("div", { class: "tools" },
                   el("label", { for: "tool" }, t("photo.tool")), this.tool,
                   this.sizeLabel = el("label", { for: "tool-size" }, t("photo.size")), this.size,
                   this.colourLabel = el("label", { for: "tool-colour" }, t("photo.colour")),
                   this.colour));
    this.canvas.addEventListener("pointermove", (event) =>
      this.move(pixelAt(this.canvas, event), event));
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointerup", () => this.release());
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("blur", () => this.leave());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  render() {
    const { pixels, photoName: name } = this.app, tool = this.tool.value;
    if (!pixels) return;
    fillPixels(this.canvas, pixels.width, pixels.height,
               (i) => pixels.data.subarray(3 * i, 3 * i + 3));
    this.canvas.classList.toggle("drawn-on", tool !== "look");
    this.canvas.setAttribute("aria-label", t("photo.label", { name, size: pixels.width }));
    this.size.hidden = this.sizeLabel.hidden = tool === "look";
    this.colour.hidden = this.colourLabel.hidden = tool !== "paint";
    this.drawHeat();
    this.drawMarks();
  }

  // The class activation map that was asked for: blue and orange over the photograph, grey.
  drawHeat() {
    const map = this.app.activationMap();
    this.heat.hidden = !map;
    this.canvas.classList.toggle("grey", Boolean(map));
    if (!map) return;
    const [height, width] = map.shape, small = new OffscreenCanvas(width, height);
    fillPixels(small, width, height, (i) => colourOf(Math.sign(map.data[i]), 1),
               (i) => 210 * Math.min(1, Math.abs(map.data[i]) / map.limit));
    const { width: w, height: h } = this.app.pixels;
    this.heat.width = w;
    this.heat.height = h;
    const large = this.heat.getContext("2d");
    large.imageSmoothingQuality = "high";
    large.drawImage(small, 0, 0, w, h);
  }

  // What the pixel under the pointer, or the chosen one, sees; and what the tool would cover.
  drawMarks() {
    const { pixels, hovered, chosen } = this.app, size = pixels.width;
    this.marks.setAttribute("viewBox", `0 0 ${size} ${size}`);
    const shown = [];
    for (const [place, kind] of [[chosen, "chosen"], [hovered, "hovered"]]) {
      const layer = place && this.app.layer(place.path);
      if (!layer) continue;
      const { left, top, right, bottom } = seenBy(layer, place.row, place.column, size);
      shown.push(svg("rect", { class: kind, x: left, y: top, width: right - left,
                               height: bottom - top }));
    }
    if (this.cursor) {
      const [row, column] = this.cursor, reach = this.reach();
      shown.push(svg("rect", { class: "cursor", x: column - reach, y: row - reach,
                               width: 2 * reach, height: 2 * reach }));
    }
    this.marks.replaceChildren(...shown);
    this.note.textContent = this.describe();
  }

  describe() {
    const { hovered, chosen, pixels } = this.app;
    const place = hovered ?? chosen, layer = place && this.app.layer(place.path);
    if (!layer || layer.kind === PIXELS) return t("photo.hint");
    if (!layer.field) return t("photo.seesAll", { path: layer.path });
    const { left, top, right, bottom } = seenBy(layer, place.row, place.column, pixels.width);
    const beyond = Math.max(-left, -top, right - pixels.width, bottom - pixels.height, 0);
    return t(beyond ? "photo.seesBeyond" : "photo.sees",
             { path: layer.path, size: right - left, beyond });
  }

  // --- pointer and keys ---

  reach() {
    return this.tool.value === "look" ? 0.5 : Number(this.size.value) / 2;
  }

  mark([row, column]) {
    const of = this.app.pixels.width;
    if (this.tool.value === "cover") return { square: Number(this.size.value), row, column, of };
    const value = parseInt(this.colour.value.slice(1), 16);
    const colour = [value >> 16, (value >> 8) & 255, value & 255];
    return { dot: this.reach(), row, column, colour, of };
  }

  move(place, event) {
    this.cursor = place;
    if (this.tool.value === "cover") this.app.preview([this.mark(place)]);
    if (this.tool.value === "paint" && event?.buttons) {
      this.stroke = [...(this.stroke ?? []), this.mark(place)];
      this.app.preview(this.stroke);
    }
    this.drawMarks();
  }

  press(event) {
    this.canvas.setPointerCapture?.(event.pointerId);
    this.cursor = pixelAt(this.canvas, event);
    this.act();
  }

  act() {
    const [row, column] = this.cursor;
    if (this.tool.value === "look") {
      this.app.choose({ path: PIXELS, channel: 0, row, column });
    } else if (this.tool.value === "cover") {
      this.app.preview([]);
      this.app.addMarks([this.mark(this.cursor)]);
    } else {
      this.stroke = [this.mark(this.cursor)];
      this.app.preview(this.stroke);
    }
  }

  release() {
    if (!this.stroke) return;
    const stroke = this.stroke;
    this.stroke = null;
    this.app.preview([]);
    this.app.addMarks(stroke);
  }

  leave() {
    this.release();
    this.cursor = null;
    if (this.app.previewed.length) this.app.preview([]);
    this.drawMarks();
  }

  key(event) {
    const { width } = this.app.pixels;
    if (event.key in ARROWS) {
      const step = event.shiftKey ? 1 : 8, [down, right] = ARROWS[event.key];
      const [row, column] = this.cursor ?? [width / 2, width / 2];
      this.move([within(row + step * down, width), within(column + step * right, width)]);
    } else if ((event.key === "Enter" || event.key === " ") && this.cursor) {
      this.act();
      this.release();
    } else {
      return;
    }
    event.preventDefault();
  }
}
