// One layer: what it computes, with its own numbers, what it costs, and its output, channel by
// channel, as pictures on one scale.

import { colourBar, drawMap, largest } from "./colours.js";
import { ARROWS, count, el, number, pixelAt, svg, within } from "./dom.js";
import { normOf } from "./network.js";
import { batchNorm } from "./ops.js";
import { t } from "./text.js";

const PAGE = 64;                                          // channels at a time
const VIEWS = { norm: ["output", "before", "input"], block: ["output", "branch", "shortcut"] };

export class LayerPanel {
  constructor(app, root) {
    this.app = app;
    this.page = 0;
    this.title = el("h3", {});
    this.kind = el("p", {});
    this.formula = el("p", { class: "formula" });
    this.facts = el("dl", { class: "facts" });
    this.figure = el("div", {});
    this.tools = el("div", { class: "tools" });
    this.views = el("div", { class: "tabs", role: "group", "aria-label": t("layer.views") });
    this.scale = el("div", {});
    this.pager = el("div", { class: "tools" });
    this.channels = el("div", { class: "channels", role: "group",
                                "aria-label": t("layer.channels") });
    this.large = new LargeMap(app);
    root.append(this.title, this.kind, this.formula, this.facts, this.figure, this.tools,
                this.views, this.scale, this.large.root, this.pager, this.channels);
  }

  render() {
    const { app } = this, layer = app.layer(app.selected);
    const tensor = layer && app.activations.size ? viewed(app, layer, app.view) : null;
    if (!tensor) return;
    if (this.shown !== app.selected) this.page = Math.floor((app.chosen?.channel ?? 0) / PAGE);
    this.shown = app.selected;
    const { path, kind } = layer, values = numbersOf(layer);
    this.title.textContent = path;
    this.kind.textContent = t(`layer.kind.${kind}`, values);
    const off = app.experiment.change.off.has(path) ? "Off" : "";
    this.formula.textContent = t(`layer.formula.${kind}${off}`, values);
    this.showFacts(layer, tensor);
    this.figure.replaceChildren(...(layer.kernel ? [sizeFigure(layer)] : []));
    const channel = Math.min(app.chosen?.path === path ? app.chosen.channel : this.channel ?? 0,
                             tensor.shape[0] - 1);
    this.channel = channel;
    this.showTools(layer);
    this.views.replaceChildren(...(VIEWS[kind] ?? []).map((view) =>
      el("button", { "aria-pressed": String(app.view === view), "data-key": `view ${view}`,
                     onclick: () => app.select(path, view) },
         t(`layer.view.${kind}.${view}`))));
    const limit = largest(tensor.data);
    this.scale.replaceChildren(colourBar(limit, t("layer.bar", { limit: number(limit) })));
    this.large.show(layer, tensor, channel, limit);
    this.showChannels(layer, tensor, limit);
  }

  showFacts({ path, kind, shape, parameters, macs, field, from }, tensor) {
    const delta = this.app.asWritten ? deltaOf(this.app, path) : null;
    const facts = [["input", from.join("×")], ["shape", shape.join("×")],
                   ["parameters", count(parameters)], ["macs", count(macs)],
                   ["field", field ? t("layer.fieldSize", { size: field.size, step: field.step })
                     : t("layer.fieldAll")],
                   ["range", t("layer.rangeOf", range(tensor.data))]];
    if (delta !== null) facts.push(["delta", number(delta, 2)]);
    if (kind === "norm") facts.push(["zeros", `${Math.round(100 * zeros(tensor.data))} %`]);
    this.facts.replaceChildren(...facts.map(([key, value]) =>
      el("div", {}, el("dt", {}, t(`layer.fact.${key}`)), el("dd", {}, value))));
  }

  showTools({ path, kind }) {
    const { app } = this, { off } = app.experiment.change, tools = [];
    if (kind === "block") {
      tools.push(el("button", { "data-key": "block", onclick: () => app.toggle(path) },
                    t(off.has(path) ? "layer.blockOn" : "layer.blockOff")));
    }
    if (kind !== "stage") {
      const what = `${path}:${this.channel}`;
      tools.push(el("button", { "data-key": "channel", onclick: () => app.toggle(what) },
                    t(off.has(what) ? "layer.channelOn" : "layer.channelOff",
                      { channel: this.channel })));
    }
    this.tools.replaceChildren(...tools);
  }

  showChannels(layer, { shape: [channels, h, w], data }, limit) {
    const { app } = this, last = Math.ceil(channels / PAGE) - 1;
    this.page = Math.min(this.page, last);
    const start = this.page * PAGE, end = Math.min(channels, start + PAGE);
    const turn = (by) => { this.page += by; this.render(); };
    this.pager.replaceChildren(
      el("span", { "aria-live": "polite" }, t("layer.page", { start, end: end - 1, channels })),
      el("button", { disabled: this.page === 0, onclick: () => turn(-1) }, t("layer.previous")),
      el("button", { disabled: this.page === last, onclick: () => turn(1) }, t("layer.next")));
    const tiles = [];
    for (let c = start; c < end; c++) {
      const canvas = el("canvas", { "aria-hidden": "true" });
      drawMap(canvas, data, c * h * w, h, w, limit);
      const label = h * w === 1 && layer.kind === "classifier" ? app.labels[c]
        : t("layer.channel", { channel: c });
      tiles.push(el("button", { class: "tile", "data-key": `tile ${c}`, title: label,
                                "aria-label": label,
                                "aria-pressed": String(c === this.channel),
                                onclick: () => this.pick(layer, c, h * w === 1) }, canvas,
                    el("span", {}, String(c))));
    }
    this.channels.replaceChildren(...tiles);
  }

  pick({ path }, channel, whole) {
    this.channel = channel;
    if (whole) this.app.choose({ path, channel, row: 0, column: 0 });
    else if (this.app.chosen?.path === path) this.app.choose({ ...this.app.chosen, channel });
    else this.render();
  }
}

// --- one channel, large --------------------------------------------------------------------------

class LargeMap {
  constructor(app) {
    this.app = app;
    this.canvas = el("canvas", { class: "large", tabindex: 0, role: "application" });
    this.cursor = svg("svg", { class: "marks", "aria-hidden": "true" });
    this.text = el("p", { class: "note", "aria-live": "polite" });
    this.root = el("div", { class: "large-map" },
                   el("div", { class: "stack" }, this.canvas, this.cursor), this.text);
    this.canvas.addEventListener("pointermove", (event) => this.look(this.placeOf(event)));
    this.canvas.addEventListener("pointerleave", () => this.look(null));
    this.canvas.addEventListener("click", (event) => this.ask(this.placeOf(event)));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  show(layer, tensor, channel, limit) {
    const [, h, w] = tensor.shape;
    Object.assign(this, { layer, tensor, channel, h, w });
    this.root.hidden = h * w === 1;                       // the tiles say it all
    drawMap(this.canvas, tensor.data, channel * h * w, h, w, limit);
    this.canvas.setAttribute("aria-label",
                             t("layer.largeLabel", { path: layer.path, channel, h, w }));
    this.look(null);
  }

  placeOf(event) {
    const [row, column] = pixelAt(this.canvas, event);
    return [within(row, this.h), within(column, this.w)];
  }

  look(place) {
    const { app, layer, channel } = this;
    this.at = place;
    const chosen = app.chosen?.path === layer.path && app.chosen.channel === channel
      ? [app.chosen.row, app.chosen.column] : null;
    this.cursor.setAttribute("viewBox", `0 0 ${this.w} ${this.h}`);
    const frame = ([row, column], kind) =>
      svg("rect", { class: kind, x: column, y: row, width: 1, height: 1 });
    this.cursor.replaceChildren(...(chosen ? [frame(chosen, "chosen")] : []),
                                ...(place ? [frame(place, "hovered")] : []));
    const shown = place ?? chosen;
    this.text.textContent = shown ? t("layer.value", {
      channel, row: shown[0], column: shown[1],
      value: number(this.tensor.data[(channel * this.h + shown[0]) * this.w + shown[1]]) })
      : t("layer.valueHint", { channel });
    app.hover(place && { path: layer.path, channel, row: place[0], column: place[1] });
  }

  ask([row, column]) {
    this.app.choose({ path: this.layer.path, channel: this.channel, row, column });
    this.app.bring("why-panel");
  }

  key(event) {
    if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key], { chosen } = this.app;
      const start = chosen ? [chosen.row, chosen.column] : [this.h >> 1, this.w >> 1];
      const [row, column] = this.at ?? start;
      this.look([within(row + down, this.h), within(column + right, this.w)]);
    } else if (event.key === "Enter" && this.at) {
      this.ask(this.at);
    } else {
      return;
    }
    event.preventDefault();
  }
}

// --- what is shown of a layer --------------------------------------------------------------------

// The tensor that a view shows: the output, or what the layer is made of.
function viewed(app, layer, view) {
  const input = (i) => app.activations.get(layer.inputs[i]);
  if (view === "input" || view === "branch") return input(0);
  if (view === "before") return batchNorm(input(0), normOf(app.params, layer.path));
  if (view === "shortcut") return app.activations.get(shortcutOf(app, layer));
  return app.activations.get(layer.path);
}

// Where a block's shortcut comes from, experiments included.
export function shortcutOf(app, layer) {
  const path = layer.inputs[1], projects = path.startsWith(`${layer.path}.downsample`);
  return !projects && app.experiment.change.normedIdentity ? `${layer.path}.norm1` : path;
}

// What a layer with one input reads, experiments included: with `rawProjection`, whatever reads the
// normalised input on a shortcut reads what that was made of.
export function inputOf(app, { path, inputs: [input] }) {
  const start = path.includes(".downsample.") && app.layer(input).kind === "norm";
  return start && app.experiment.change.rawProjection ? app.layer(input).inputs[0] : input;
}

function numbersOf({ kind, from: [c, h, w], shape: [k, p, q], kernel, stride, padding, leftover,
                     stops }) {
  return { kind, k, p, q, c, h, w, kernel, stride, padding, leftover, lastC: c - 1,
           lastKernel: kernel - 1, exact: stops, pixels: h * w };
}

function range(data) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < data.length; i++) {
    if (data[i] < low) low = data[i];
    if (data[i] > high) high = data[i];
  }
  return { low: number(low), high: number(high) };
}

// Their share.
export function zeros(data) {
  return data.reduce((sum, value) => sum + (value === 0 ? 1 : 0), 0) / data.length;
}

// The largest difference from what Python has at the places that came with the page, as a share of
// the layer's largest magnitude.
export function deltaOf(app, path) {
  const { meta, values } = app.digest, { data } = app.activations.get(path);
  const { start, places, largest: most } = meta[path];
  let delta = 0;
  for (let i = 0; i < places; i++) {
    const place = Math.floor((i + 0.5) * data.length / places);
    delta = Math.max(delta, Math.abs(data[place] - values[start + i]));
  }
  return Number.isNaN(delta) ? NaN : most ? delta / most : delta;
}

// How a kernel moves along one axis: padding, pixels, stops, and what is left over at the end.
function sizeFigure(layer) {
  const { from: [, h], kernel, stride, padding, leftover } = layer, all = h + 2 * padding;
  const unit = 100 / all, last = layer.shape[1] - 1, parts = [];
  const bar = (kind, from, size, y, height) => parts.push(svg("rect", {
    class: kind, x: from * unit, width: Math.max(size * unit, 0.2), y, height }));
  bar("axis-pixels", padding, h, 0, 4);
  if (padding) bar("axis-padding", 0, padding, 0, 4);
  if (padding) bar("axis-padding", padding + h, padding, 0, 4);
  if (leftover) bar("axis-left", all - leftover, leftover, 0, 4);
  const drawn = [...new Set([0, 1, 2, last])].filter((stop) => stop <= last);
  drawn.forEach((stop, i) => bar("axis-stop", stop * stride, kernel, 5 + (i % 2) * 2.2, 1.6));
  const text = t(leftover ? "layer.sizeLeft" : "layer.size", numbersOf(layer));
  return el("figure", { class: "axis" },
            svg("svg", { viewBox: "0 0 100 9", role: "img", "aria-label": text,
                         preserveAspectRatio: "none" }, ...parts), el("figcaption", {}, text));
}
