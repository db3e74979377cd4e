// A guided tour: a dozen questions to answer before the live network does. Each step sets the page
// up, asks, and then lets the network give the answer: nothing about it is written down.

import { count, el, number, percent } from "./dom.js";
import { zeros } from "./layer.js";
import { PIXELS, seenBy } from "./layers.js";
import { t } from "./text.js";

const FIRST = "stages.0.blocks.0", DEEP = "stages.3.blocks.0.conv2";

// values: numbers in the question. begin: what the page shows with it. reveal: does the experiment,
// and gives the number of the right option and what the text needs. chapter: of the course.
const STEPS = [
  { id: "input", chapter: 2, begin: (app) => app.choose(middleOf(app)), values: pixelsOf,
    reveal: () => ({ right: 1 }) },
  { id: "stops", chapter: 3, begin: selectFirst, values: kernelOf, reveal: () => ({ right: 1 }) },
  { id: "products", chapter: 4, begin: selectFirst, values: kernelOf,
    reveal: (app) => {
      const { path } = app.layers[0];
      app.choose({ path, channel: 0, ...brightest(app.activations.get(path), 0) });
      return { right: 2 };
    } },
  { id: "relu", chapter: 5, begin: (app) => app.select(`${FIRST}.norm1`),
    reveal: (app) => {
      const { data } = app.activations.get(`${FIRST}.norm1`);
      const share = zeros(data);
      app.select(`${FIRST}.norm1`, "before");
      return { right: share < 0.25 ? 0 : share < 0.75 ? 1 : 2, share: percent(share, 0) };
    } },
  { id: "field", chapter: 7, begin: (app) => app.select(DEEP),
    reveal: (app) => {
      const layer = app.layer(DEEP), middle = layer.shape[1] >> 1, picture = app.pixels.width;
      app.choose({ path: DEEP, channel: 0, row: middle, column: middle });
      const { left, right } = seenBy(layer, middle, middle, picture);
      return { right: right - left > picture ? 2 : 1, size: right - left, picture };
    } },
  { id: "spare", chapter: 6, begin: (app) => app.select(spareBlock(app)),
    reveal: async (app) => {
      await app.change({ off: new Set([spareBlock(app)]) });      // also if it is asked for again
      return afterwards(app);
    } },
  { id: "raw", chapter: 6, begin: (app) => app.select(firstProjection(app)),
    reveal: async (app) => {
      await app.change({ rawProjection: true });
      return afterwards(app);
    } },
  { id: "mirror", chapter: 1, begin: (app) => app.select("head.fc"),
    reveal: async (app) => {
      await app.edit({ mirror: true });
      return afterwards(app);
    } },
  { id: "turn", chapter: 1, begin: (app) => app.select("head.fc"),
    reveal: async (app) => {
      await app.edit({ turn: 180 });
      return afterwards(app);
    } },
  { id: "bytes", chapter: 2, begin: selectFirst,
    reveal: async (app) => {
      await app.alter({ normalisation: "bytes" });
      return afterwards(app);
    } },
  { id: "map", chapter: 11, begin: (app) => app.select("norm"),
    reveal: (app) => {
      const first = app.order()[0], { data } = app.activationMap(first);
      app.showMap(first);
      return { right: 0, mean: number(data.reduce((a, b) => a + b) / data.length),
               logit: number(app.logits[first]), label: app.labels[first] };
    } },
  { id: "sum", chapter: 7,
    begin: (app) => app.choose({ path: "head.fc", channel: app.order()[0], row: 0, column: 0 }),
    reveal: (app) => {
      const k = app.order()[0], pooled = app.activations.get("head.global_pool").data;
      const weight = app.params.get("head.fc.weight").data, channels = pooled.length;
      const parts = Array.from(pooled, (x, c) => x * weight[k * channels + c])
        .filter((part) => part > 0).sort((a, b) => b - a);
      const half = parts.reduce((a, b) => a + b, 0) / 2;
      let needed = 0;
      for (let sum = 0; sum < half; needed++) sum += parts[needed];
      return { right: needed < 5 ? 0 : needed < channels / 4 ? 1 : 2, needed, channels };
    } },
];

function middleOf({ pixels: { width } }) {
  return { path: PIXELS, channel: 0, row: width >> 1, column: width >> 1 };
}

function pixelsOf({ pixels: { width, data } }) {
  return { size: width, pixels: count(width * width), numbers: count(data.length) };
}

function selectFirst(app) {
  app.select(app.layers[0].path);
}

function kernelOf({ layers: [{ shape, from: [channels, size], kernel, padding, stops }] }) {
  return { size, kernel, padding, stops: shape[1], more: shape[1] + 1, exact: stops, channels,
           area: kernel * kernel, count: channels * kernel * kernel };
}

// A block in the middle that has no projection, so that it can be left out.
function spareBlock({ layers }) {
  const blocks = layers.filter(({ kind, inputs, path }) =>
    kind === "block" && !inputs[1].startsWith(`${path}.`));
  return (blocks.findLast(({ path }) => path.startsWith("stages.2.")) ?? blocks[0]).path;
}

function firstProjection({ layers }) {
  return layers.find(({ path }) => path.endsWith(".downsample.conv")).path;
}

// After an experiment: 0 the same answer, almost as sure; 1 the same, less sure; 2 another answer.
function afterwards(app) {
  const first = app.order()[0], before = app.unaltered.probabilities;
  const was = before.indexOf(Math.max(...before)), share = app.probabilities[was];
  const right = first !== was ? 2 : share > before[was] - 0.05 ? 0 : 1;
  return { right, label: app.labels[was], now: app.labels[first], before: percent(before[was]),
           after: percent(share) };
}

function brightest({ shape: [, h, w], data }, channel) {
  let best = 0;
  for (let i = 0; i < h * w; i++) {
    if (data[channel * h * w + i] > data[channel * h * w + best]) best = i;
  }
  return { row: Math.floor(best / w), column: best % w };
}

// It changes by its own buttons alone.
export class TourPanel {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.index = 0;
    root.hidden = true;
  }

  begin() {
    this.root.hidden = false;
    this.show(0);
  }

  async show(index) {
    this.index = index;
    const step = STEPS[index], { app } = this;
    app.mapClass = null;
    await app.reset();
    step.begin(app);
    this.values = step.values?.(app) ?? {};
    const say = (part) => t(`tour.${step.id}.${part}`, this.values);
    const options = [0, 1, 2].map((i) => el("label", { class: "option" },
      el("input", { type: "radio", name: "tour-option", value: i,
                    onchange: () => { this.ask.disabled = false; } }),
      el("span", {}, say(i))));
    this.result = el("p", { "aria-live": "polite" });
    this.ask = el("button", { class: "primary", disabled: true, onclick: () => this.reveal(step) },
                  t("tour.reveal"));
    const heading = el("h2", { tabindex: -1 }, t("tour.heading", {
      step: index + 1, of: STEPS.length, title: say("title") }));
    const turn = (by, text) => el("button", { disabled: !(index + by in STEPS),
                                              onclick: () => this.show(index + by) }, text);
    this.root.replaceChildren(heading, el("p", {}, say("text")),
      el("fieldset", {}, el("legend", {}, say("question")), ...options), this.result,
      el("div", { class: "tools" }, this.ask,
         turn(-1, t("tour.back")), turn(1, t("tour.next")),
         el("button", { onclick: () => this.close() }, t("tour.close"))),
      el("p", { class: "note" }, t("tour.chapter", { chapter: step.chapter })));
    heading.focus();
  }

  async reveal(step) {
    const guess = Number(this.root.querySelector("input:checked").value);
    this.ask.disabled = true;
    const { right, ...found } = await step.reveal(this.app);
    const option = t(`tour.${step.id}.${right}`, this.values);
    const verdict = t(guess === right ? "tour.right" : "tour.wrong", { option });
    const text = t(`tour.${step.id}.reveal`, { ...this.values, ...found });
    this.result.textContent = `${verdict} ${text}`;
  }

  close() {
    this.root.hidden = true;
    this.app.reset();
    document.getElementById("tour").focus();
  }
}
