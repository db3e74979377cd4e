// The network as a picture: one row a block, the convolutions and norms of its branch from left to
// right, and its shortcut below, up to the sum. Every layer is a button with its output in small.

import { drawMap, isDark } from "./colours.js";
import { el } from "./dom.js";
import { t } from "./text.js";

// Pixels of a map → of its small picture.
const EDGES = [[60, 38], [30, 32], [15, 26], [8, 20], [2, 15]];
const SMALLEST = 12;

export class MapPanel {
  constructor(app, root) {
    this.app = app;
    this.search = el("input", { id: "search", type: "search", list: "paths", autocomplete: "off",
                                placeholder: "stages.2.blocks.0.conv2",
                                onchange: () => this.find(this.search.value) });
    this.paths = el("datalist", { id: "paths" });
    this.rows = el("div", { class: "rows", role: "group", "aria-label": t("map.label") });
    this.rows.addEventListener("keydown", (event) => this.key(event));
    root.append(el("div", { class: "form" }, el("label", { for: "search" }, t("map.search")),
                   this.search, this.paths),
                this.missing = el("p", { class: "failed", role: "status" }), this.rows,
                el("p", { class: "note" }, t("map.hint")));
  }

  find(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return;
    const paths = this.app.layers.map(({ path }) => path);
    const path = paths.find((p) => p === wanted || shortened(p) === wanted)
      ?? paths.find((p) => p.includes(wanted));
    this.missing.textContent = path ? "" : t("map.notFound", { text });
    if (path) this.app.select(path);
  }

  render() {
    if (this.drawn !== this.app.layers) this.build();
    if (this.shown !== this.app.selected) {
      this.shown = this.app.selected;
      const node = this.nodes.get(this.shown).button;     // in one column it would move the page
      if (matchMedia("(min-width: 1181px)").matches) node.scrollIntoView({ block: "nearest" });
    }
    for (const [path, { button }] of this.nodes) this.update(path, button);
    this.paint();
    const { rawProjection, normedIdentity } = this.app.experiment.change;
    for (const { tag, projects } of this.tags) {
      const raw = projects ? rawProjection : !normedIdentity;
      tag.textContent = t(raw ? "map.identity" : "map.projection");
    }
  }

  // The rows: once for each network.
  build() {
    const { layers } = this.app, groups = [];
    for (const layer of layers) {
      const [, block] = layer.path.match(/^(stages\.\d+\.blocks\.\d+)/) ?? [];
      const name = block ?? (layer.kind === "stage" ? layer.path : layer.path.split(".")[0]);
      if (groups.at(-1)?.name === name) groups.at(-1).layers.push(layer);
      else groups.push({ name, layers: [layer] });
    }
    this.nodes = new Map();
    this.tags = [];
    this.rows.replaceChildren(...groups.map((group) => this.row(group)));
    this.paths.replaceChildren(...layers.map(({ path }) => el("option", { value: path })));
    this.drawn = layers;
  }

  row({ name, layers }) {
    const sum = layers.find(({ kind }) => kind === "block");
    if (!sum) {
      const kind = layers[0].kind === "stage" ? "stage-row" : "plain-row";
      return el("div", { class: `row ${kind}` }, el("span", { class: "row-name" }, name),
                el("div", { class: "branch" }, ...layers.map((layer) => this.node(layer, name))));
    }
    const side = layers.filter(({ path }) => path.includes(".downsample."));
    const branch = layers.filter((layer) => layer !== sum && !side.includes(layer));
    const tag = el("span", { class: "tag" });
    this.tags.push({ tag, projects: side.length > 0 });
    const nodes = (some) => some.map((layer) => this.node(layer, name));
    return el("div", { class: `row block-row ${side.length ? "projects" : "identity"}` },
              el("span", { class: "row-name" }, shortened(name)),
              el("div", { class: "branch" }, ...nodes(branch)),
              el("div", { class: "shortcut" }, tag, ...nodes(side)),
              el("div", { class: "sum" }, this.node(sum, name)));
  }

  node(layer, row) {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const { path, shape: [c, h, w], kind } = layer;
    const name = kind === "block" ? "+" : kind === "stage" ? t("map.stage")
      : path.slice(path.startsWith(`${row}.`) ? row.length + 1 : 0).replace("downsample.", "");
    const button = el("button", { class: `node ${kind}`, tabindex: -1,
                                  onclick: () => this.pick(path),
                                  "aria-label": t(`map.node.${kind}`, { path, c, h, w }),
                                  title: path },
                      canvas, el("span", {}, name));
    const edge = EDGES.find(([size]) => h >= size)?.[1] ?? SMALLEST;
    canvas.style.width = `${edge}px`;
    canvas.style.height = `${edge}px`;
    this.nodes.set(path, { button, canvas });
    return button;
  }

  update(path, button) {
    const { app } = this, selected = app.selected === path;
    button.setAttribute("aria-current", String(selected));
    button.tabIndex = selected ? 0 : -1;
    button.classList.toggle("off", app.experiment.change.off.has(path));
  }

  // The small pictures: again only after a run, or where the colours have changed.
  paint() {
    const { activations } = this.app, dark = isDark();
    if (this.painted?.nodes === this.nodes && this.painted.activations === activations
        && this.painted.dark === dark) return;
    this.painted = { nodes: this.nodes, activations, dark };
    for (const [path, { canvas }] of this.nodes) {
      if (!activations.has(path)) continue;
      const { data, height, width } = summary(activations.get(path));
      drawMap(canvas, data, 0, height, width, 1);
    }
  }

  pick(path) {
    this.app.select(path);
    this.app.bring("layer-panel");
  }

  key(event) {
    const paths = this.app.layers.map(({ path }) => path), at = paths.indexOf(this.app.selected);
    const rowOf = (path) => this.nodes.get(path).button.closest(".row");
    let next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: paths.length - 1 }[event.key];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1, here = rowOf(paths[at]);
      next = at;
      while (paths[next] && rowOf(paths[next]) === here) next += step;
    }
    if (next === undefined || !paths[next]) return;
    event.preventDefault();
    this.app.select(paths[next]);
    this.nodes.get(paths[next]).button.focus();
  }
}

// "stages.2.blocks.0.conv1" → "2.0.conv1", as the rows are named.
function shortened(path) {
  return path.replace("stages.", "").replace(".blocks.", ".");
}

// All channels in one map: the root of the sum of squares at each pixel, spread from 0 to 1. The
// square undoes the root of the colours: here the large differences count.
function summary({ shape: [channels, h, w], data }) {
  const plane = h * w, one = plane === 1, sums = new Float64Array(one ? channels : plane);
  for (let i = 0; i < data.length; i++) sums[one ? i : i % plane] += data[i] ** 2;
  const sizes = sums.map(Math.sqrt);
  const low = sizes.reduce((a, b) => Math.min(a, b)), high = sizes.reduce((a, b) => Math.max(a, b));
  return { data: sizes.map((size) => ((size - low) / (high - low || 1)) ** 2),
           height: one ? 1 : h, width: one ? channels : w };
}
