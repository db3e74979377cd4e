// The five likeliest classes, what they were before an experiment, and where each comes from.

import { bar, el, number, percent } from "./dom.js";
import { t } from "./text.js";

const CLASSES = 5, LISTED = 20;

export class AnswerPanel {
  constructor(app, root) {
    this.app = app;
    this.list = el("ol", { class: "answers" });
    this.legend = el("p", { class: "note" });
    this.known = el("p", { class: "note" });
    root.append(this.list, this.legend, this.known);
  }

  render() {
    const { app } = this;
    if (!app.logits) return;
    const shown = app.order().slice(0, CLASSES), { length } = app.labels;
    if (app.mapClass !== null && !shown.includes(app.mapClass)) shown.push(app.mapClass);
    this.list.replaceChildren(...shown.map((index) => this.row(index)));
    const names = app.labels.map((label) => label.split(",")[0]).join(", ");
    this.known.textContent = t(length > LISTED ? "answer.knowsMany" : "answer.knows",
                               { count: length, names });
    const index = app.mapClass;
    this.legend.textContent = index === null ? t("answer.hint")
      : t("answer.map", { label: app.labels[index], mean: number(app.logits[index]) });
  }

  row(index) {
    const { app } = this, label = app.labels[index], share = app.probabilities[index];
    const before = app.unaltered?.probabilities[index] ?? share, mapped = app.mapClass === index;
    const said = t("answer.row", { label, share: percent(share) });
    const then = app.altered || app.previewed.length
      ? el("span", { class: "before" }, t("answer.before", { share: percent(before) })) : null;
    return el("li", {},
      el("button", { class: "answer", "data-key": `answer ${index}`,
                     "aria-pressed": String(mapped), title: t("answer.showMap"),
                     "aria-label": `${said} ${t("answer.showMap")}`,
                     onclick: () => app.showMap(mapped ? null : index) },
         el("span", { class: "label" }, label),
         bar(share, then && before),
         el("span", { class: "share" }, percent(share)), then),
      el("button", { class: "small", "data-key": `why ${index}`,
                     "aria-label": t("answer.whyLabel", { label }),
                     onclick: () => {
                       app.choose({ path: "head.fc", channel: index, row: 0, column: 0 });
                       document.getElementById("why-panel").focus();
                     } }, t("answer.why")));
  }
}
