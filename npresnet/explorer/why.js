// Why this number? The sum behind one value of one layer: its real summands, which add up to what
// the map shows. Every number that took part can be asked in its turn, down to the pixels.

import { colourOf, css, inkOn, largest } from "./colours.js";
import { el, number } from "./dom.js";
import { shortcutOf } from "./layer.js";
import { PIXELS } from "./layers.js";
import { normOf } from "./network.js";
import { scaleAndShift } from "./ops.js";
import { t } from "./text.js";

const SHOWN = 8;                                          // summands, the strongest ones

export class WhyPanel {
  constructor(app, root) {
    this.app = app;
    this.trail = [];
    this.title = el("h3", { "aria-live": "polite" });
    this.path = el("ol", { class: "trail", "aria-label": t("why.trail") });
    this.body = el("div", {});
    root.append(this.title, this.path, this.body);
  }

  // Ask the next number, keeping the way that led there.
  follow(place) {
    this.trail.push(place);
    this.all = false;
    this.app.choose(place);
  }

  render() {
    const { chosen, activations } = this.app;
    if (!chosen || !activations.size) {
      this.trail = [];
      this.title.textContent = t("why.empty");
      this.path.replaceChildren();
      this.body.replaceChildren(el("p", { class: "note" }, t("why.hint")));
      return;
    }
    if (this.trail.at(-1) !== chosen) {
      this.trail = [chosen];
      this.all = false;
    }
    const { path, channel, row, column } = chosen, y = activations.get(path);
    this.value = at(y, channel, row, column);
    const name = path === "head.fc" ? this.app.labels[channel] : t("why.place", { channel, row, column });
    this.title.textContent = t("why.title", { path, name, value: number(this.value, 5) });
    this.path.replaceChildren(...this.trail.map((place, i) => el("li", {},
      el("button", { class: "link", "aria-current": i === this.trail.length - 1 ? "step" : null,
                     onclick: () => this.back(i) }, t("why.step", place)))));
    this.body.replaceChildren(...this.explain());
  }

  back(index) {
    this.trail = this.trail.slice(0, index + 1);
    this.app.choose(this.trail[index]);
  }

  explain() {
    const { app } = this, { path, channel } = app.chosen, layer = app.layer(path);
    const { off } = app.experiment.change;
    if (off.has(`${path}:${channel}`)) return [el("p", {}, t("why.off"))];
    return this[layer.kind](layer, app.chosen);
  }

  // --- one method for each kind of layer ---

  pixels(_, { channel, row, column }) {
    const { pixels, config } = this.app, start = 3 * (row * pixels.width + column);
    const bytes = Array.from(pixels.data.subarray(start, start + 3));
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = css(bytes);
    const bands = bytes.map((_, c) => el("button", { class: "link", "aria-current": String(c === channel),
      onclick: () => this.app.choose({ path: PIXELS, channel: c, row, column }) },
      t("why.band", { band: t(`why.band.${c}`), byte: bytes[c] })));
    return [el("p", {}, swatch, ...bands), el("p", { class: "formula" }, t("why.pixels", {
      byte: bytes[channel], mean: config.mean[channel], std: config.std[channel],
      value: number(this.value, 5) }))];
  }

  conv(layer, { channel, row, column }) {
    const { kernel, stride, padding, inputs: [input], from: [channels] } = layer;
    const x = this.app.activations.get(input), weight = this.app.params.get(`${layer.path}.weight`).data;
    const summands = [];
    for (let c = 0; c < channels; c++) {
      const patch = [], taps = [];
      let amount = 0;
      for (let i = 0; i < kernel; i++) {
        for (let j = 0; j < kernel; j++) {
          const place = { path: input, channel: c, row: row * stride + i - padding,
                          column: column * stride + j - padding };
          const w = weight[((channel * channels + c) * kernel + i) * kernel + j];
          const value = inside(x, place) ? at(x, c, place.row, place.column) : null;
          patch.push({ value, place: value === null ? null : place });
          taps.push({ value: w });
          amount += (value ?? 0) * w;
        }
      }
      summands.push({ name: t("layer.channel", { channel: c }), patch, taps, kernel, amount });
    }
    return this.sum(summands, t(kernel > 1 ? "why.conv" : "why.conv1", { channels, kernel }));
  }

  classifier({ path }, { channel }) {
    const pooled = this.app.activations.get("head.global_pool"), channels = pooled.shape[0];
    const weight = this.app.params.get(`${path}.weight`).data, bias = this.app.params.get(`${path}.bias`);
    const summands = Array.from({ length: channels }, (_, c) => {
      const w = weight[channel * channels + c];
      return { name: t("layer.channel", { channel: c }), kernel: 1, taps: [{ value: w }],
               patch: [{ value: pooled.data[c], place: { path: "head.global_pool", channel: c, row: 0, column: 0 } }],
               amount: w * pooled.data[c] };
    });
    if (bias) summands.push({ name: t("why.bias"), amount: bias.data[channel] });
    return this.sum(summands, t("why.classifier", { channels }));
  }

  norm({ path, inputs: [input] }, place) {
    const value = at(this.app.activations.get(input), place.channel, place.row, place.column);
    const [scale, shift] = scaleAndShift(normOf(this.app.params, path), place.channel);
    const before = Math.fround(value * scale + shift);
    return [el("p", {}, t("why.norm")),
            el("p", { class: "formula" }, this.link({ ...place, path: input }, value),
               t("why.normSum", { scale: number(scale), shift: number(shift), before: number(before, 5) })),
            el("p", {}, t(before < 0 ? "why.reluCuts" : "why.reluPasses", { value: number(this.value, 5) }))];
  }

  maxPool(layer, place) {
    const window = this.window(layer, place);
    const best = window.find(({ value }) => value === this.value);
    if (best) best.marked = true;
    return [el("p", {}, t("why.maxPool")), grid(this, window, layer.kernel)];
  }

  avgPool(layer, place) {
    const window = this.window(layer, place).filter((cell) => cell.value !== null);
    return [el("p", {}, t("why.avgPool", { count: window.length, value: number(this.value, 5) })),
            grid(this, window, Math.min(2, window.length))];
  }

  globalPool({ inputs: [input], from: [, h, w] }, { channel }) {
    const x = this.app.activations.get(input), cells = [];
    for (let row = 0; row < h; row++) {
      for (let column = 0; column < w; column++) {
        cells.push({ value: at(x, channel, row, column), place: { path: input, channel, row, column } });
      }
    }
    const total = cells.reduce((sum, { value }) => sum + value, 0);
    return [el("p", {}, t("why.globalPool", { count: h * w, total: number(total, 5), value: number(this.value, 5) })),
            grid(this, cells, w)];
  }

  block(layer, place) {
    const shortcut = shortcutOf(this.app, layer), branch = layer.inputs[0];
    const read = (path) => at(this.app.activations.get(path), place.channel, place.row, place.column);
    if (this.app.experiment.change.off.has(layer.path)) {
      return [el("p", {}, t("why.blockOff")), el("p", {}, this.link({ ...place, path: shortcut }, read(shortcut)))];
    }
    return this.sum([branch, shortcut].map((path, i) => ({
      name: t(i ? "why.shortcut" : "why.branch", { path }), kernel: 1, amount: read(path),
      patch: [{ value: read(path), place: { ...place, path } }] })), t("why.block"));
  }

  stage(layer, place) {
    return [el("p", {}, t("why.stage")), el("p", {}, this.link({ ...place, path: layer.inputs[0] }, this.value))];
  }

  // --- parts ---

  window({ kernel, stride, padding, inputs: [input] }, { channel, row, column }) {
    const x = this.app.activations.get(input), cells = [];
    for (let i = 0; i < kernel; i++) {
      for (let j = 0; j < kernel; j++) {
        const place = { path: input, channel, row: row * stride + i - padding, column: column * stride + j - padding };
        const value = inside(x, place) ? at(x, channel, place.row, place.column) : null;
        cells.push({ value, place: value === null ? null : place });
      }
    }
    return cells;
  }

  // A button with a number that can be asked in its turn.
  link(place, value) {
    return el("button", { class: "link", onclick: () => this.follow(place) },
              `${t("why.step", place)} = ${number(value)}`);
  }

  // The strongest summands, what the others add, and the check that they make the value shown.
  sum(summands, text) {
    const order = [...summands].sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount));
    const shown = this.all ? order : order.slice(0, SHOWN), rest = order.slice(shown.length);
    const add = (list) => list.reduce((sum, { amount }) => sum + amount, 0);
    const limit = largest(order.map(({ amount }) => amount));
    const scales = { x: largest(order.flatMap(({ patch = [] }) => patch.map(({ value }) => value ?? 0))),
                     w: largest(order.flatMap(({ taps = [] }) => taps.map(({ value }) => value))) };
    const rows = shown.map((summand) => this.summand(summand, limit, scales));
    if (rest.length) {
      rows.push(el("tr", { class: "rest" }, el("th", { scope: "row" }, t("why.rest", { count: rest.length })),
                   el("td", {}, el("button", { class: "small", onclick: () => { this.all = true; this.render(); } },
                                   t("why.showAll"))),
                   ...amountCells(add(rest), limit)));
    }
    const total = add(summands);
    return [el("p", {}, text),
            el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": text },
               el("table", { class: "summands" }, el("tbody", {}, ...rows),
                  el("tfoot", {}, el("tr", {}, el("th", { scope: "row" }, t("why.total")), el("td", {}),
                                     el("td", { class: "num", id: "why-total", "data-value": total }, number(total, 5)),
                                     el("td", {}))))),
            el("p", { class: "note" }, t("why.check", { value: number(this.value, 5),
                                                        delta: number(Math.abs(total - this.value), 2) }))];
  }

  summand({ name, patch, taps, kernel, amount }, limit, scales) {
    const cells = patch ? [grid(this, patch, kernel, scales.x)] : [];
    if (taps) cells.push(el("span", {}, "×"), grid(this, taps, kernel, scales.w));
    return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "product" }, ...cells),
              ...amountCells(amount, limit));
  }
}

function amountCells(amount, limit) {
  const bar = el("span", { class: amount < 0 ? "amount negative" : "amount positive" });
  bar.style.width = `${limit ? Math.min(50, 50 * Math.abs(amount) / limit) : 0}%`;
  return [el("td", { class: "num" }, number(amount)),
          el("td", { class: "amount-cell", "aria-hidden": "true" }, bar)];
}

// Numbers as a square of coloured cells. A cell with a place can be asked; one without a value is
// padding.
function grid(panel, cells, columns, limit = largest(cells.map(({ value }) => value ?? 0))) {
  const small = columns > 3, box = el("span", { class: small ? "cells tiny" : "cells" });
  box.style.gridTemplateColumns = `repeat(${columns}, auto)`;
  for (const { value, place, marked } of cells) {
    const kind = `cell${marked ? " marked" : ""}${value === null ? " padding" : ""}`;
    const text = value === null ? t("why.padding") : number(value, small ? 4 : 2);
    const shown = small ? "" : value === null ? "0" : text;
    const label = place ? t("why.cell", { ...place, value: text }) : text;
    const cell = place
      ? el("button", { class: kind, title: label, "aria-label": label, onclick: () => panel.follow(place) }, shown)
      : el("span", { class: kind, title: label }, shown);
    if (value !== null) {
      const colour = colourOf(value, limit);
      cell.style.background = css(colour);
      cell.style.color = inkOn(colour);
    }
    box.append(cell);
  }
  return box;
}

function inside({ shape: [, h, w] }, { row, column }) {
  return row >= 0 && column >= 0 && row < h && column < w;
}

function at({ shape: [, h, w], data }, channel, row, column) {
  return data[(channel * h + row) * w + column];
}
