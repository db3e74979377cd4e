// The page as a whole: what is shown at present, how it changes, and who has to draw it again.

import { AgreementPanel } from "./agreement.js";
import { AnswerPanel } from "./answer.js";
import { largest } from "./colours.js";
import { decodeBase64 } from "./dom.js";
import { Engine } from "./engine.js";
import { ExperimentsPanel, NORMALISATIONS } from "./experiments.js";
import { LayerPanel } from "./layer.js";
import { layersOf, PIXELS } from "./layers.js";
import { MapPanel } from "./map.js";
import { AS_TRAINED } from "./network.js";
import { softmax } from "./ops.js";
import { applyEdits, decode, PhotoPanel, UNTOUCHED } from "./photo.js";
import { crop, scale } from "./preprocessing.js";
import { readSafetensors } from "./safetensors.js";
import { fillText, t } from "./text.js";
import { TourPanel } from "./tour.js";
import { WhyPanel } from "./why.js";

const UNCHANGED = { edits: UNTOUCHED, change: AS_TRAINED, normalisation: "trained", size: null };
// What files without a configuration of their own are taken for: timm's resnetv2_50.a1h_in1k.
const PUBLISHED = { size: 224, cropPct: 0.95, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] };

class App {
  constructor() {
    const block = (id) => document.getElementById(id).textContent;
    this.page = JSON.parse(block("page-data"));
    this.engine = new Engine(block("worker-source"), (done) => this.progress(done));
    this.history = [];                                    // experiments before the present one
    this.experiment = UNCHANGED;
    this.previewed = [];                                  // marks under the pointer
    this.activations = new Map();
    this.chosen = this.hovered = null;                    // {path, channel, row, column}
    this.mapClass = null;                                 // whose activation map is shown
    const panel = (Panel, id) => new Panel(this, document.getElementById(id));
    this.photoPanel = panel(PhotoPanel, "photo-panel");
    this.tour = panel(TourPanel, "tour-panel");
    this.panels = [this.photoPanel, panel(AnswerPanel, "answer-panel"),
                   panel(ExperimentsPanel, "experiments-panel"), panel(MapPanel, "map-panel"),
                   panel(LayerPanel, "layer-panel"), panel(WhyPanel, "why-panel"),
                   panel(AgreementPanel, "agreement-panel")];
    this.status = document.getElementById("status");
    this.bar = document.getElementById("progress");
  }

  // The network and the photograph that came with the page.
  async start() {
    const bytes = (id) => decodeBase64(document.getElementById(id).textContent);
    const { config, labels, weightsName, photoName } = this.page;
    this.digest = { meta: this.page.digest, values: new Float32Array(bytes("digest").buffer) };
    await this.useWeights(bytes("weights").buffer, weightsName, config, labels);
    this.weightsWritten = true;
    await this.usePhoto(bytes("photo"), photoName, true);
  }

  // --- what is opened ---

  // A file of weights. If it can't be read or run, what was there stays.
  async openWeights(buffer, name) {
    const kept = { ...this };
    try {
      await this.tryWeights(buffer, name);
    } catch (error) {
      Object.assign(this, kept);
      await this.engine.load(kept.weights);
      this.render();
      throw error;
    }
  }

  async tryWeights(buffer, name) {
    const params = readSafetensors(buffer);
    const classes = params.get("head.fc.weight")?.shape[0];
    const names = classes === 1000 ? this.page.imagenet
      : Array.from({ length: classes ?? 0 }, (_, i) => t("answer.class", { index: i }));
    await this.useWeights(buffer, name, PUBLISHED, names, params);
    this.weightsWritten = false;
    await this.usePicture(this.picture, this.photoName, false);
  }

  async useWeights(buffer, name, config, labels, params = readSafetensors(buffer)) {
    const layers = layersOf(params, config.size);         // throws before anything has changed
    await this.engine.load(buffer);
    Object.assign(this, { params, labels, config, weights: buffer, weightsName: name });
    this.useLayers(layers);
    this.activations = new Map();
    this.history = [];
    this.experiment = UNCHANGED;
    this.chosen = this.hovered = this.mapClass = this.unaltered = null;
    this.selected = layers[0].path;
    this.view = "output";
  }

  useLayers(layers) {
    this.layers = layers;
    this.byPath = new Map(layers.map((layer) => [layer.path, layer]));
  }

  async usePhoto(bytes, name, embedded = false) {
    await this.usePicture(await decode(bytes), name, embedded);
  }

  async usePicture(picture, name, embedded) {
    Object.assign(this, { picture, photoName: name, embedded });
    this.cropped = null;
    this.history = [];
    this.experiment = UNCHANGED;
    this.unaltered = null;
    await this.run();
  }

  get normalisation() {
    return NORMALISATIONS[this.experiment.normalisation];
  }

  // Whether all is as Python saw it when it wrote the page.
  get asWritten() {
    return this.embedded && this.weightsWritten && !this.altered && !this.previewed.length;
  }

  get altered() {
    return this.history.length > 0;
  }

  // --- running ---

  // Prepare the pixels, run the network, and draw everything again. Of runs in a row only the last
  // one is sure to be done; all of them end when it has.
  run() {
    this.turn = (this.turn ?? 0) + 1;
    this.newest = this.runOnce(this.turn);
    return this.newest;
  }

  async runOnce(turn) {
    const { edits, change } = this.experiment, { picture, params } = this;
    this.prepare(this.experiment.size ?? this.config.size);
    const marks = [...edits.marks, ...this.previewed];
    const pixels = applyEdits(this.cropped, { ...edits, marks });
    const { mean, std, order } = { ...this.config, ...this.normalisation };
    const x = scale(pixels, { mean, std }, order);
    this.pixels = pixels;
    this.photoPanel.render();
    const slow = setTimeout(() => this.say(t("status.running")), 400);
    let done;
    try {
      done = await this.engine.run(x, change, !this.unaltered);
    } finally {
      clearTimeout(slow);
      this.bar.hidden = true;
    }
    // Something newer has taken its place, or it is about what was open before.
    if (!done || picture !== this.picture || params !== this.params) {
      if (turn !== this.turn) await this.newest;
      return;
    }
    this.ms = done.ms;
    this.activations = done.activations;
    this.activations.set(PIXELS, x);
    this.logits = this.activations.get("head.fc").data;
    this.probabilities = softmax(this.logits);
    this.unaltered ??= { logits: this.logits, probabilities: this.probabilities };
    this.render();
    this.sayAnswer();
  }

  // The answer, or the first layer that has something else than numbers.
  sayAnswer() {
    if (this.logits.every(Number.isFinite)) {
      const label = this.labels[this.order()[0]];
      this.say(t("status.done", { ms: Math.round(this.ms), label }));
    } else {
      const broken = ([, { data }]) => !data.every(Number.isFinite);
      const [path] = [...this.activations].find(broken);
      this.say(t("status.notFinite", { path }), true);
    }
  }

  // Resize and cut the photograph, where that isn't done; another size means other layers, too.
  prepare(size) {
    if (this.cropped?.width === size) return;
    this.cropped = crop(this.picture, { ...this.config, size }, this.page.downFirst);
    if (this.layers[0].from[1] !== size) {
      this.useLayers(layersOf(this.params, size));
      this.chosen = this.hovered = null;
    }
  }

  // Numbers of the classes, the likeliest first.
  order() {
    return Array.from(this.logits, (_, i) => i).sort((a, b) => this.logits[b] - this.logits[a]);
  }

  layer(path) {
    return path === PIXELS ? { path: PIXELS, kind: PIXELS, inputs: [],
                               shape: this.activations.get(PIXELS)?.shape,
                               field: { size: 1, step: 1, start: 0 } } : this.byPath.get(path);
  }

  // --- experiments ---

  // One more experiment. One that fails is taken back.
  async alter(changes) {
    const before = this.experiment;
    this.history.push(before);
    this.experiment = { ...before, ...changes };
    try {
      await this.run();
    } catch (error) {
      this.history.pop();
      this.experiment = before;
      await this.run();
      this.say(error.message, true);
    }
  }

  edit(changes) {
    return this.alter({ edits: { ...this.experiment.edits, ...changes } });
  }

  // What the network does otherwise: see network.js.
  change(changes) {
    return this.alter({ change: { ...this.experiment.change, ...changes } });
  }

  addMarks(marks) {
    return this.edit({ marks: [...this.experiment.edits.marks, ...marks] });
  }

  // Switch a block ("stages.0.blocks.1") or a channel ("stem.conv:3") off, or on again.
  toggle(what) {
    const off = new Set(this.experiment.change.off);
    if (!off.delete(what)) off.add(what);
    return this.change({ off });
  }

  preview(marks) {
    this.previewed = marks;
    return this.run();
  }

  undo() {
    if (!this.history.length) return null;
    this.experiment = this.history.pop();
    return this.run();
  }

  reset() {
    if (!this.altered) return null;
    this.history = [];
    this.experiment = UNCHANGED;
    return this.run();
  }

  // --- what is looked at ---

  select(path, view = "output") {
    this.selected = path;
    this.view = view;
    this.hovered = null;
    if (this.chosen && this.chosen.path !== path) this.chosen = null;
    this.render();
  }

  // Ask for one number: {path, channel, row, column}. The layer is selected with it.
  choose(place) {
    this.chosen = place;
    if (place && place.path !== PIXELS) {
      this.selected = place.path;
      this.view = "output";
    }
    this.hovered = null;
    this.render();
  }

  // Where everything stands in one column, what was just asked for may be far away.
  bring(id) {
    if (matchMedia("(max-width: 760px)").matches) document.getElementById(id).scrollIntoView();
  }

  hover(place) {
    this.hovered = place;
    this.photoPanel.drawMarks();
  }

  showMap(index) {
    this.mapClass = index;
    this.render();
  }

  // What each place of the last feature map adds to a class: {shape: [P, Q], data, limit}, or null.
  // Its mean is the logit.
  activationMap(index = this.mapClass) {
    if (index === null) return null;
    const { shape: [channels, h, w], data } = this.activations.get("norm");
    const weight = this.params.get("head.fc.weight").data, bias = this.params.get("head.fc.bias");
    const sums = new Float64Array(h * w).fill(bias ? bias.data[index] : 0);
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < h * w; i++) sums[i] += weight[index * channels + c] * data[c * h * w + i];
    }
    return { shape: [h, w], data: sums, limit: largest(sums) };
  }

  // Buttons that are made anew get the focus back.
  render() {
    const key = document.activeElement?.dataset.key;
    for (const panel of this.panels) panel.render();
    if (key && !document.activeElement.dataset.key) {
      document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
    }
    document.getElementById("undo").disabled = !this.altered;
    document.getElementById("reset").disabled = !this.altered;
    document.getElementById("weights-name").textContent = this.weightsName;
  }

  say(text, failed = false) {
    this.status.textContent = text;
    this.status.classList.toggle("failed", failed);
  }

  progress(done) {
    this.bar.hidden = false;
    this.bar.max = this.layers.length;
    this.bar.value = done;
    this.say(t("status.progress", { done, of: this.layers.length }));
  }
}

// --- buttons, files and keys of the whole page -------------------------------------------------

function connect(app) {
  const on = (id, event, action) => document.getElementById(id).addEventListener(event, action);
  on("undo", "click", () => app.undo());
  on("reset", "click", () => app.reset());
  on("tour", "click", () => app.tour.begin());
  on("open", "change", (event) => {
    openFile(app, event.target.files[0]);
    event.target.value = "";                              // the same file may be opened again
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    openFile(app, event.dataTransfer.files[0]);
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.type !== "search") {
      event.preventDefault();
      app.undo();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => app.render());
}

// A photograph or a file of weights, by its name. What was there stays if it can't be read.
async function openFile(app, file) {
  if (!file) return;
  try {
    const buffer = await file.arrayBuffer();
    if (/\.safetensors$/i.test(file.name)) await app.openWeights(buffer, file.name);
    else await app.usePhoto(new Uint8Array(buffer), file.name);
  } catch (error) {
    app.say(t("status.failed", { name: file.name, reason: error.message }), true);
  }
}

fillText(document);
const app = new App();
connect(app);
window.npresnet = {
  app,
  ready: app.start().catch((error) => {
    app.say(error.message);
    throw error;
  }),
  layers: () => app.layers.map(({ path }) => path),
  layer: (path) => app.activations.get(path),
  classify: async (bytes) => {
    await app.usePhoto(new Uint8Array(bytes), t("photo.given"));
    return app.logits;
  },
};
