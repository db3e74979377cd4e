// The network as data: for every layer what it reads, how large it is, and what it costs. The twin
// of npresnet/graph.py, drawn from a file's tensors; the map and the explanations follow it.
//
// A layer: {path, kind, inputs, kernel, stride, padding, from, shape, stops, leftover, parameters,
// macs, field}.
// kind: conv, norm, maxPool, avgPool, block, stage, globalPool, classifier.
// from, shape: [C, H, W] of the first input and of the output.
// stops: of a kernel along an axis, with the fraction that is cut off. leftover: pixels at the end
// that no stop reaches.
// field: what one output pixel sees of the picture, {size, step, start}: pixel p sees
// [start + p·step, start + p·step + size − 1]; null: all of it.

import { describe } from "./network.js";
import { convPadding, outputSize } from "./ops.js";
import { t } from "./text.js";

export const PIXELS = "pixels";                           // what the first convolution reads

// params: name → {shape}; size: edge of the picture. In forward order, as `model.trace` has them.
export function layersOf(params, size) {
  const builder = new Builder(params, size);
  builder.walk(describe(params));
  const unused = [...params.keys()].find((name) => !builder.used.has(name)
    && !name.endsWith(".num_batches_tracked"));           // a counter, whatever its type
  if (unused) throw new Error(t("weights.unused", { name: unused }));
  return builder.layers;
}

class Builder {
  constructor(params, size) {
    this.params = params;
    this.layers = [];
    this.used = new Set();                                // names of tensors
    this.known = new Map([[PIXELS, { shape: [3, size, size],
                                     field: { size: 1, step: 1, start: 0 } }]]);
  }

  walk({ depths, deepStem, bottleneck, avgDown }) {
    let x = deepStem ? this.deepStem() : this.conv("stem.conv", PIXELS, 7, 2);
    x = this.slide("stem.pool", "maxPool", x, 3, 2, 1);
    depths.forEach((depth, s) => {
      for (let b = 0; b < depth; b++) {
        x = this.block(`stages.${s}.blocks.${b}`, x, s > 0 && b === 0 ? 2 : 1, bottleneck, avgDown);
      }
      x = this.add({ path: `stages.${s}`, kind: "stage", inputs: [x] });
    });
    x = this.norm("norm", x);
    const [channels] = this.known.get(x).shape;
    x = this.add({ path: "head.global_pool", kind: "globalPool", inputs: [x],
                   shape: [channels, 1, 1], field: null });
    const [classes] = this.shapeOf("head.fc.weight", [null, channels, 1, 1]);
    if (this.params.has("head.fc.bias")) this.shapeOf("head.fc.bias", [classes]);
    this.add({ path: "head.fc", kind: "classifier", inputs: [x], shape: [classes, 1, 1],
               macs: classes * channels,
               parameters: this.count("head.fc.weight", "head.fc.bias") });
  }

  deepStem() {
    let x = this.norm("stem.norm1", this.conv("stem.conv1", PIXELS, 3, 2));
    x = this.norm("stem.norm2", this.conv("stem.conv2", x, 3));
    return this.conv("stem.conv3", x, 3);
  }

  block(path, x, stride, bottleneck, avgDown) {
    const p = this.norm(`${path}.norm1`, x);
    let y = this.conv(`${path}.conv1`, p, ...(bottleneck ? [1] : [3, stride]));
    y = this.conv(`${path}.conv2`, this.norm(`${path}.norm2`, y), 3, bottleneck ? stride : 1);
    if (bottleneck) y = this.conv(`${path}.conv3`, this.norm(`${path}.norm3`, y), 1);
    const [channels] = this.known.get(y).shape;
    let shortcut = x;
    if (this.params.has(`${path}.downsample.conv.weight`)) {
      shortcut = p;
      if (avgDown && stride > 1) {
        shortcut = this.slide(`${path}.downsample.pool`, "avgPool", p, 2, 2, 0);
        stride = 1;
      }
      shortcut = this.conv(`${path}.downsample.conv`, shortcut, 1, stride, channels);
    }
    const shapes = [y, shortcut].map((of) => this.known.get(of).shape.join("×"));
    if (shapes[0] !== shapes[1]) {                        // they could only be added when projected
      throw new Error(t("weights.missing", { name: `${path}.downsample.conv.weight` }));
    }
    return this.add({ path, kind: "block", inputs: [y, shortcut] });
  }

  norm(path, x) {
    const [channels] = this.known.get(x).shape;
    for (const part of ["weight", "bias", "running_mean", "running_var"]) {
      this.shapeOf(`${path}.${part}`, [channels]);
    }
    return this.add({ path, kind: "norm", inputs: [x],
                      parameters: this.count(`${path}.weight`, `${path}.bias`) });
  }

  // outputs: how many channels it has to give, if something else decides that.
  conv(path, x, kernel, stride = 1, outputs = null) {
    const name = `${path}.weight`, [c] = this.known.get(x).shape;
    const [k] = this.shapeOf(name, [outputs, c, kernel, kernel]);
    const layer = this.slide(path, "conv", x, kernel, stride, convPadding(kernel, stride), k);
    const made = this.known.get(layer);
    made.parameters = this.count(name);
    made.macs = k * c * kernel * kernel * made.shape[1] * made.shape[2];
    return layer;
  }

  // A kernel that moves over the pixels: a convolution or a pool.
  slide(path, kind, x, kernel, stride, padding, channels = this.known.get(x).shape[0]) {
    const { shape: [, h, w], field } = this.known.get(x);
    const sizeOf = (n) => kind === "avgPool" ? Math.ceil(n / 2)
      : outputSize(n, kernel, stride, padding);
    const leftover = kind === "avgPool" ? 0 : (h + 2 * padding - kernel) % stride;
    const stops = (h + 2 * padding - kernel) / stride + 1;
    return this.add({ path, kind, inputs: [x], kernel, stride, padding, leftover, stops,
                      shape: [channels, sizeOf(h), sizeOf(w)],
                      field: { size: field.size + (kernel - 1) * field.step,
                               step: field.step * stride,
                               start: field.start - padding * field.step } });
  }

  // Where nothing else is said, shape and field are those of the first input.
  add(layer) {
    const first = this.known.get(layer.inputs[0]);
    const whole = { shape: first.shape, field: first.field, parameters: 0, macs: 0,
                    from: first.shape, ...layer };
    this.layers.push(whole);
    this.known.set(whole.path, whole);
    return whole.path;
  }

  // The shape of a tensor, which has to be the expected one; null: any size.
  shapeOf(name, expected) {
    const found = this.params.get(name)?.shape;
    if (!found) throw new Error(t("weights.missing", { name }));
    const fits = found.length === expected.length
      && expected.every((size, i) => size === null || size === found[i]);
    if (!fits) {
      throw new Error(t("weights.shape", {
        name, found: found.join("×") || "1",
        expected: expected.map((size) => size ?? "any").join("×") }));
    }
    this.used.add(name);
    return found;
  }

  count(...names) {
    return names.reduce((sum, name) => {
      const shape = this.params.get(name)?.shape ?? [0];
      return sum + shape.reduce((a, b) => a * b, 1);
    }, 0);
  }
}

// The part of the picture that pixel (row, column) of a layer sees, {left, top, right, bottom}: the
// first and the first no more. It may reach beyond the picture's border.
export function seenBy(layer, row, column, size) {
  if (!layer.field) return { left: 0, top: 0, right: size, bottom: size };
  const { size: extent, step, start } = layer.field;
  const left = start + column * step, top = start + row * step;
  return { left, top, right: left + extent, bottom: top + extent };
}
