// Small helpers to make elements and to write numbers. Text becomes text nodes: nothing that comes
// from a file name or a label is ever read as HTML.

// Keys that move by one: [rows, columns].
export const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
                        ArrowDown: [1, 0] };

// The pixel of a canvas that the pointer is on, [row, column]; dragged out of it, one beyond.
export function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [Math.floor((event.clientY - box.top) / box.height * canvas.height),
          Math.floor((event.clientX - box.left) / box.width * canvas.width)];
}

// The nearest of 0 … size − 1.
export function within(n, size) {
  return Math.max(0, Math.min(size - 1, n));
}

const SVG = "http://www.w3.org/2000/svg";

// el("button", { class: "tool", onclick: f, "aria-label": "…" }, "text", child, …)
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in STATES) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const STATES = { value: 1, checked: 1, disabled: 1, selected: 1, hidden: 1, open: 1 };

// Four digits that count: 0.8123, −12.04, 1.2e−7.
export function number(value, digits = 4) {
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 2)
    : value.toFixed(Math.max(0, Math.min(6, digits - 1 - Math.floor(Math.log10(size)))));
  return text.replaceAll("-", "−").replace("e+", "e");
}

// 25,549,352
export function count(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

// A bar from 0 to 1, for eyes alone: its number stands beside it. mark: where it was before.
export function bar(share, mark = null) {
  const filled = el("span", { class: "filled" });
  filled.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  const box = el("span", { class: "share-bar", "aria-hidden": "true" }, filled);
  if (mark !== null) {
    const line = el("span", { class: "was" });
    line.style.left = `${100 * mark}%`;
    box.append(line);
  }
  return box;
}

// The bytes behind a base64 text of the page.
export function decodeBase64(text) {
  const raw = atob(text.trim()), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
