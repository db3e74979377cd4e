// What a person can do to the photograph and to the network, and what was done so far.

import { el } from "./dom.js";
import { t } from "./text.js";

// Other ways to make numbers of pixels than the one that the network was trained with.
export const NORMALISATIONS = {
  trained: {},
  none: { mean: [0, 0, 0], std: [1, 1, 1] },
  imagenet: { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
  bytes: { mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] },
  bgr: { order: [2, 1, 0] },
};
const ANGLES = [0, 15, 30, 45, 60, 90, 135, 180, 270];
const SIZES = [64, 96, 128, 160, 192, 224, 256, 288, 384];

export class ExperimentsPanel {
  constructor(app, root) {
    this.app = app;
    this.turn = this.choice("turn", ANGLES, (value) => app.edit({ turn: Number(value) }),
                            (degrees) => t("experiments.degrees", { degrees }));
    this.mirror = this.box("mirror", (on) => app.edit({ mirror: on }));
    this.normalisation = this.choice("normalisation", Object.keys(NORMALISATIONS),
                                     (value) => app.alter({ normalisation: value }),
                                     (name) => t(`experiments.normalisation.${name}`));
    this.size = this.choice("size", SIZES, (value) => app.alter({ size: Number(value) }),
                            (size) => t("experiments.pixels", { size }));
    this.raw = this.box("rawProjection", (on) => app.change({ rawProjection: on }));
    this.normed = this.box("normedIdentity", (on) => app.change({ normedIdentity: on }));
    this.off = el("ul", { class: "chips" });
    root.append(el("div", { class: "form" }, ...this.turn.row, ...this.mirror.row,
                   ...this.normalisation.row,
                   ...this.size.row, ...this.raw.row, ...this.normed.row),
                this.off, el("p", { class: "note" }, t("experiments.hint")));
  }

  choice(key, values, act, nameOf) {
    const input = el("select", { id: `experiment-${key}`, onchange: () => act(input.value) },
                     ...values.map((value) => el("option", { value }, nameOf(value))));
    return { input, row: [el("label", { for: input.id }, t(`experiments.${key}`)), input] };
  }

  box(key, act) {
    const input = el("input", { id: `experiment-${key}`, type: "checkbox",
                                onchange: () => act(input.checked) });
    return { input, row: [el("label", { for: input.id }, t(`experiments.${key}`)), input] };
  }

  render() {
    const { edits, change, normalisation } = this.app.experiment;
    this.turn.input.value = String(edits.turn);
    this.mirror.input.checked = edits.mirror;
    this.normalisation.input.value = normalisation;
    this.size.input.value = String(this.app.layers[0].from[1]);
    this.raw.input.checked = change.rawProjection;
    this.normed.input.checked = change.normedIdentity;
    this.off.replaceChildren(...[...change.off].map((what) =>
      el("li", {}, el("button", { class: "chip", onclick: () => this.app.toggle(what),
                                  "aria-label": t("experiments.switchOn", { what }) },
                      t("experiments.off", { what })))));
  }
}
