// Why this number? The sum behind one value of one layer: its real summands, which add up to what
// the map shows. Every number that took part can be asked in its turn, down to the pixels.

import { colourOf, css, inkOn, largest } from "./colours.js";
import { el, number, percent } from "./dom.js";
import { inputOf, shortcutOf } from "./layer.js";
import { PIXELS } from "./layers.js";
import { normOf } from "./network.js";
import { scaleAndShift } from "./ops.js";
import { t } from "./text.js";

const SHOWN = 8;                                          // summands, the strongest ones

export class WhyPanel {
  constructor(app, root) {
    this.app = app;
    this.trail = [];
    this.title = el("h3", { "aria-live": "polite", tabindex: -1 });
    this.path = el("ol", { class: "trail", "aria-label": t("why.trail") });
    this.body = el("div", {});
    root.append(this.title, this.path, this.body);
  }

  // Ask the next number, keeping the way that led there.
  follow(place) {
    const { kind, inputs } = this.app.layer(place.path);
    if (kind === "stage") {                               // its last block by another name
      this.follow({ ...place, path: inputs[0] });
      return;
    }
    this.trail.push(place);
    this.all = false;
    this.app.choose(place);
    this.title.focus({ preventScroll: true });            // its button is gone
  }

  // Ask another number in place of the last one: the way there is the same.
  replace(place) {
    this.trail.splice(-1, 1, place);
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
    const { path, channel } = chosen;
    this.value = this.read(chosen);
    const name = path === "head.fc" ? this.app.labels[channel] : t("why.place", chosen);
    this.title.textContent = t("why.title", { path, name, value: number(this.value, 5) });
    this.path.replaceChildren(...this.trail.map((place, i) => el("li", {}, el("button", {
      class: "link", "aria-current": i === this.trail.length - 1 ? "step" : null,
      onclick: () => this.back(i) }, t("why.step", place)))));
    this.strongest = null;                                // what took part and weighs most
    const parts = this.explain(), next = this.strongest;
    if (next) {
      parts.unshift(el("button", { class: "small", id: "strongest",
                                   onclick: () => this.follow(next) },
                       t("why.strongest", { step: t("why.step", next) })));
    }
    this.body.replaceChildren(...parts);
  }

  back(index) {
    this.trail = this.trail.slice(0, index + 1);
    this.app.choose(this.trail[index]);
    this.title.focus({ preventScroll: true });
  }

  explain() {
    const { chosen, experiment } = this.app, { path, channel } = chosen;
    if (experiment.change.off.has(`${path}:${channel}`)) return [el("p", {}, t("why.off"))];
    const layer = this.app.layer(path);
    return this[layer.kind](layer, chosen);
  }

  // --- one method for each kind of layer ---

  pixels(_, { channel, row, column }) {
    const { pixels, config } = this.app, start = 3 * (row * pixels.width + column);
    const bytes = Array.from(pixels.data.subarray(start, start + 3));
    const { mean, std, order = [0, 1, 2] } = { ...config, ...this.app.normalisation };
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = css(bytes);
    const bands = bytes.map((byte, c) => el("button", {
      class: "link", "aria-current": String(c === order[channel]),
      onclick: () => this.replace({ path: PIXELS, channel: order.indexOf(c), row, column }),
    }, t("why.band", { band: t(`why.band.${c}`), byte })));
    const plain = (value) => Number(value.toFixed(4));
    return [el("p", {}, swatch, ...bands), formula(t("why.pixels", {
      byte: bytes[order[channel]], mean: plain(mean[channel]), std: plain(std[channel]),
      value: number(this.value, 5) }))];
  }

  conv(layer, { channel, row, column }) {
    const { path, kernel, from: [channels] } = layer, input = inputOf(this.app, layer);
    const weight = this.weights(path), taps = kernel * kernel, summands = [];
    for (let c = 0; c < channels; c++) {
      const start = (channel * channels + c) * taps;
      summands.push({ name: t("layer.channel", { channel: c }), columns: kernel,
                      patch: this.window(layer, { path: input, channel: c, row, column }),
                      weights: Array.from(weight.subarray(start, start + taps)) });
    }
    return this.sum(summands, t(kernel > 1 ? "why.conv" : "why.conv1", { channels, kernel }));
  }

  classifier({ path, inputs: [input], from: [channels] }, { channel }) {
    const weight = this.weights(path), bias = this.app.params.get(`${path}.bias`);
    const summands = Array.from({ length: channels }, (_, c) => ({
      name: t("layer.channel", { channel: c }), columns: 1,
      weights: [weight[channel * channels + c]],
      patch: [this.cell({ path: input, channel: c, row: 0, column: 0 })] }));
    if (bias) summands.push({ name: t("why.bias"), amount: bias.data[channel] });
    const share = t("why.softmax", { logit: number(this.value),
                                     share: percent(this.app.probabilities[channel]) });
    return [el("p", {}, share), ...this.sum(summands, t("why.classifier", { channels }))];
  }

  norm({ path, inputs: [input] }, place) {
    const from = { ...place, path: input };
    const [scale, shift] = scaleAndShift(normOf(this.app.params, path), place.channel);
    const before = Math.fround(this.read(from) * scale + shift);
    this.strongest = from;
    const rest = t("why.normSum", {
      scale: number(scale), sign: shift < 0 ? "−" : "+", shift: number(Math.abs(shift)),
      before: number(before, 5) });
    const relu = before < 0 ? t("why.reluCuts")
      : t("why.reluPasses", { value: number(this.value, 5) });
    return [el("p", {}, t("why.norm")), formula(this.link(from), rest), el("p", {}, relu)];
  }

  maxPool(layer, place) {
    const window = this.window(layer, { ...place, path: layer.inputs[0] });
    const best = window.find(({ value }) => value === this.value);
    if (best) best.marked = true;
    this.strongest = best?.place;
    return [el("p", {}, t("why.maxPool")), this.cells(window, layer.kernel)];
  }

  avgPool(layer, place) {
    const window = this.window(layer, { ...place, path: inputOf(this.app, layer) })
      .filter(({ value }) => value !== null);
    return [el("p", {}, t("why.avgPool", { count: window.length, value: number(this.value, 5) })),
            this.cells(window, Math.min(2, window.length))];
  }

  globalPool({ inputs: [path], from: [, h, w] }, { channel }) {
    const cells = Array.from({ length: h * w }, (_, i) =>
      this.cell({ path, channel, row: Math.floor(i / w), column: i % w }));
    const total = cells.reduce((sum, { value }) => sum + value, 0);
    this.strongest = heaviest(cells)?.place;
    return [el("p", {}, t("why.globalPool", { count: h * w, total: number(total, 5),
                                              value: number(this.value, 5) })),
            this.cells(cells, w)];
  }

  block(layer, place) {
    const shortcut = { ...place, path: shortcutOf(this.app, layer) };
    if (this.app.experiment.change.off.has(layer.path)) {
      return [el("p", {}, t("why.blockOff")), el("p", {}, this.link(shortcut))];
    }
    const branch = { ...place, path: layer.inputs[0] };
    const summand = (name, from) => ({ name: t(name, from), columns: 1, patch: [this.cell(from)] });
    return this.sum([summand("why.branch", branch), summand("why.shortcut", shortcut)],
                    t("why.block"));
  }

  stage({ inputs: [path] }, place) {
    return [el("p", {}, t("why.stage")), el("p", {}, this.link({ ...place, path }))];
  }

  // --- numbers ---

  // The value at a place; null outside of the layer's pixels, where padding is.
  read({ path, channel, row, column }) {
    const { shape: [, h, w], data } = this.app.activations.get(path);
    const inside = row >= 0 && column >= 0 && row < h && column < w;
    return inside ? data[(channel * h + row) * w + column] : null;
  }

  cell(place) {
    const value = this.read(place);
    return { value, place: value === null ? null : place };
  }

  weights(path) {
    return this.app.params.get(`${path}.weight`).data;
  }

  // What a kernel sees of one channel at its stop (row, column).
  window({ kernel, stride, padding }, { path, channel, row, column }) {
    return Array.from({ length: kernel * kernel }, (_, i) => this.cell({
      path, channel, row: row * stride + Math.floor(i / kernel) - padding,
      column: column * stride + (i % kernel) - padding }));
  }

  // --- what is shown ---

  // A button with a number that can be asked in its turn.
  link(place) {
    return el("button", { class: "link", onclick: () => this.follow(place) },
              `${t("why.step", place)} = ${number(this.read(place))}`);
  }

  // The strongest summands, what the others add, and the check that they make the value shown.
  // A summand: {name, patch: cells, weights, columns}, or {name, amount}.
  sum(summands, text) {
    for (const summand of summands) summand.amount ??= amountOf(summand);
    const order = [...summands].sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount));
    const shown = this.all ? order : order.slice(0, SHOWN), rest = order.slice(shown.length);
    const { patch = [], weights } = order.find((summand) => summand.patch) ?? {};
    this.strongest = heaviest(patch, weights)?.place;
    const scales = { amount: largest([...shown.map(({ amount }) => amount), addUp(rest)]),
                     patch: largest(order.flatMap(({ patch = [] }) => patch.map(valueOf))),
                     weights: largest(order.flatMap(({ weights = [] }) => weights)) };
    const rows = shown.map((summand) => this.row(summand, scales));
    if (rest.length) {
      const all = el("button", { class: "small", onclick: () => this.showAll() }, t("why.showAll"));
      rows.push(el("tr", { class: "rest" },
                   el("th", { scope: "row" }, t("why.rest", { count: rest.length })),
                   el("td", {}, all), ...amountCells(addUp(rest), scales.amount)));
    }
    const total = addUp(summands);
    const foot = el("tr", {}, el("th", { scope: "row" }, t("why.total")), el("td", {}),
                    el("td", { class: "num", id: "why-total", "data-value": total },
                       number(total, 5)), el("td", {}));
    return [el("p", {}, text),
            el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": text },
               el("table", { class: "summands" }, el("tbody", {}, ...rows), el("tfoot", {}, foot))),
            el("p", { class: "note" }, t("why.check", {
              value: number(this.value, 5), delta: number(Math.abs(total - this.value), 2) }))];
  }

  showAll() {
    this.all = true;
    this.render();
  }

  row({ name, patch, weights, columns, amount }, scales) {
    const product = patch ? [this.cells(patch, columns, scales.patch)] : [];
    if (weights) {
      product.push(el("span", {}, "×"),
                   this.cells(weights.map((value) => ({ value })), columns, scales.weights));
    }
    return el("tr", {}, el("th", { scope: "row" }, name),
              el("td", {}, el("div", { class: "product" }, ...product)),
              ...amountCells(amount, scales.amount));
  }

  // Numbers as a square of coloured cells. One that has a place can be asked; one without a value
  // is padding.
  cells(cells, columns, limit = largest(cells.map(valueOf))) {
    const tiny = columns > 3, box = el("span", { class: tiny ? "cells tiny" : "cells" });
    box.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    box.append(...cells.map((cell) => this.button(cell, limit, tiny)));
    return box;
  }

  button({ value, place, marked }, limit, tiny) {
    const kind = `cell${marked ? " marked" : ""}${value === null ? " padding" : ""}`;
    const text = value === null ? t("why.padding") : number(value, tiny ? 4 : 2);
    const shown = tiny ? "" : value === null ? "0" : text;
    const label = place ? t("why.cell", { ...place, value: text }) : text;
    const cell = place
      ? el("button", { class: kind, title: label, "aria-label": label,
                       onclick: () => this.follow(place) }, shown)
      : el("span", { class: kind, title: label }, shown);
    if (value !== null) {
      const colour = colourOf(value, limit);
      cell.style.background = css(colour);
      cell.style.color = inkOn(colour);
    }
    return cell;
  }
}

function amountOf({ patch, weights }) {
  return patch.reduce((sum, { value }, i) => sum + (value ?? 0) * (weights ? weights[i] : 1), 0);
}

// The cell that adds most, whatever its sign.
function heaviest(cells, weights) {
  const weigh = ({ value }, i) => Math.abs((value ?? 0) * (weights ? weights[i] : 1));
  const sizes = cells.map(weigh);
  return cells[sizes.indexOf(Math.max(...sizes))];
}

function addUp(summands) {
  return summands.reduce((sum, { amount }) => sum + amount, 0);
}

function valueOf({ value }) {
  return value ?? 0;
}

function amountCells(amount, limit) {
  const filled = el("span", { class: amount < 0 ? "amount negative" : "amount positive" });
  filled.style.width = `${limit ? Math.min(50, 50 * Math.abs(amount) / limit) : 0}%`;
  return [el("td", { class: "num" }, number(amount)),
          el("td", { class: "amount-cell", "aria-hidden": "true" }, filled)];
}

function formula(...parts) {
  return el("p", { class: "formula" }, ...parts);
}
