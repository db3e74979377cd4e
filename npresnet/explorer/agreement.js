// How far this page is from Python, layer by layer: the same network computed twice.

import { bar, count, el, number } from "./dom.js";
import { deltaOf } from "./layer.js";
import { t } from "./text.js";

const FLOOR = -9, TOP = -3;                               // powers of ten of the bars' ends

export class AgreementPanel {
  constructor(app, root) {
    this.app = app;
    this.text = el("p", {});
    this.table = el("table", {}, el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, t("agreement.layer")), el("th", { scope: "col" }, "Δ"),
      el("td", {}))), this.body = el("tbody", {}));
    root.append(this.text, el("details", {}, el("summary", {}, t("agreement.all")), this.table));
  }

  render() {
    const { app } = this;
    if (!app.activations.size) return;
    if (!app.asWritten) {
      this.text.textContent = t(app.weightsWritten && app.embedded ? "agreement.altered"
        : "agreement.unknown");
      this.table.hidden = true;
      return;
    }
    this.table.hidden = false;
    const deltas = app.layers.map(({ path }) => [path, deltaOf(app, path)]);
    const [path, delta] = deltas.reduce((a, b) => (b[1] > a[1] || Number.isNaN(b[1]) ? b : a));
    const numbers = Object.values(app.digest.meta).reduce((sum, { places }) => sum + places, 0);
    this.text.textContent = t("agreement.largest", {
      delta: number(delta, 2), path, layers: deltas.length, numbers: count(numbers) });
    this.body.replaceChildren(...deltas.map(([name, value]) => this.row(name, value)));
  }

  row(path, delta) {
    const share = delta > 0 ? (Math.log10(delta) - FLOOR) / (TOP - FLOOR) : 0;
    const link = el("button", { class: "link", onclick: () => this.app.select(path) }, path);
    return el("tr", {}, el("th", { scope: "row" }, link),
      el("td", { class: "num" }, number(delta, 2)),
      el("td", { class: "bar-cell" }, bar(share)));
  }
}
