// The network in forward order, in JavaScript: a twin of npresnet/network.py, line for line.
//
//     stem      7×7 convolution, stride 2 (or three 3×3); max pool 3×3, stride 2
//     stages    pre-activation blocks
//     norm      batch norm and ReLU
//     head      average over the pixels, then one linear layer
//
// `tap(path, tensor)` gets every layer's output under its timm path, in forward order. A tensor is
// {shape: [C, H, W], data: Float32Array}; `params` maps timm's names to {shape, data}.
//
// Source: He et al. 2016, arXiv 1603.05027; timm models/resnetv2.py (1.0.31).

import { add, avgPool2d, conv2d, convPadding, globalAvgPool, maxPool2d, normAct,
         tensor } from "./ops.js";
import { t } from "./text.js";

export const AS_TRAINED = { off: new Set(), rawProjection: false, normedIdentity: false };

// What a file's tensors say of its network: which blocks each stage has, and of which kind.
// Throws an Error that says what is missing.
export function describe(params) {
  const depths = [];
  while (params.has(`stages.${depths.length}.blocks.0.norm1.weight`)) {
    let depth = 0;
    while (params.has(`stages.${depths.length}.blocks.${depth}.norm1.weight`)) depth++;
    depths.push(depth);
  }
  const deepStem = params.has("stem.conv1.weight");
  const bottleneck = params.has("stages.0.blocks.0.conv3.weight");
  const needed = [deepStem ? "stem.conv3.weight" : "stem.conv.weight",
                  "stages.0.blocks.0.conv1.weight", "norm.weight", "head.fc.weight"];
  const missing = needed.filter((name) => !params.has(name));
  if (missing.length) throw new Error(t("weights.otherNetwork", { names: missing.join(", ") }));
  // Of the published variants, those with a deep stem average before they project.
  return { depths, deepStem, bottleneck, avgDown: deepStem };
}

// The four vectors of a batch norm.
export function normOf(params, path) {
  const part = (name) => found(params, `${path}.${name}`).data;
  return { weight: part("weight"), bias: part("bias"), mean: part("running_mean"),
           variance: part("running_var") };
}

function found(params, name) {
  if (!params.has(name)) throw new Error(t("weights.missing", { name }));
  return params.get(name);
}

export class Network {
  // change: what is done otherwise than in training. off: paths of blocks that only hand on their
  // input, and of channels ("path:3") that are 0. rawProjection: projections take the raw input.
  // normedIdentity: shortcuts without a projection take the normalised input.
  constructor(params, { tap = () => {}, change = {} } = {}) {
    this.params = params;
    this.tap = tap;
    this.change = { ...AS_TRAINED, ...change };
    this.variant = describe(params);
  }

  // x [3, H, W] → logits [K, 1, 1]
  forward(x) {
    return this.forwardHead(this.forwardFeatures(x));
  }

  // x [3, H, W] → the last feature map [2048, H/32, W/32], after the last norm and its ReLU
  forwardFeatures(x) {
    x = this.pool(this.stem(x));                                   // [64, H/4, W/4]
    for (let s = 0; s < this.variant.depths.length; s++) {
      for (let b = 0; b < this.variant.depths[s]; b++) x = this.block(s, b, x);
      this.done(`stages.${s}`, x);
    }
    return this.normAct("norm", x);
  }

  // The first convolution, or the first three. The last has no norm: the first block brings one.
  stem(x) {
    if (!this.variant.deepStem) return this.conv("stem.conv", x, 2);
    x = this.normAct("stem.norm1", this.conv("stem.conv1", x, 2));
    x = this.normAct("stem.norm2", this.conv("stem.conv2", x));
    return this.conv("stem.conv3", x);
  }

  // x is raw and may be negative, so its border counts as −∞, never as 0.
  pool(x) {
    return this.done("stem.pool", maxPool2d(x, 3, 2, 1));
  }

  // Norm and ReLU come before each convolution, and nothing after the sum. A projection takes the
  // normalised input; a shortcut without one adds the raw input.
  block(s, b, x) {
    const path = `stages.${s}.blocks.${b}`;
    const stride = s > 0 && b === 0 ? 2 : 1;
    const projects = this.params.has(`${path}.downsample.conv.weight`);
    const p = this.normAct(`${path}.norm1`, x);                    // [C, H, W]
    let y;
    if (this.variant.bottleneck) {
      y = this.conv(`${path}.conv1`, p);                           // [mid, H, W], 1×1
      y = this.normAct(`${path}.norm2`, y);
      y = this.conv(`${path}.conv2`, y, stride);                   // [mid, P, Q], 3×3
      y = this.normAct(`${path}.norm3`, y);
      y = this.conv(`${path}.conv3`, y);                           // [K, P, Q], 1×1
    } else {
      y = this.conv(`${path}.conv1`, p, stride);                   // [K, P, Q], 3×3
      y = this.normAct(`${path}.norm2`, y);
      y = this.conv(`${path}.conv2`, y);                           // [K, P, Q], 3×3
    }
    const { off, rawProjection, normedIdentity } = this.change;
    const shortcut = projects
      ? this.downsample(path, rawProjection ? x : p, stride)
      : normedIdentity ? p : x;                                    // [K, P, Q]
    // A copy: a channel that is off here stays what it was in the layer that the shortcut is.
    return this.done(path, off.has(path) ? tensor(shortcut.shape, shortcut.data.slice())
      : add(y, shortcut));
  }

  // The projection on a shortcut: a 1×1 convolution, after an average pool in the d and t variants.
  downsample(path, p, stride) {
    if (this.variant.avgDown && stride > 1) {
      p = this.done(`${path}.downsample.pool`, avgPool2d(p));
      stride = 1;
    }
    return this.conv(`${path}.downsample.conv`, p, stride);
  }

  // The mean of each channel, then the classifier, which is stored as a 1×1 convolution.
  forwardHead(features) {
    const pooled = this.done("head.global_pool", globalAvgPool(features));
    const bias = this.params.get("head.fc.bias");
    return this.done("head.fc", conv2d(pooled, found(this.params, "head.fc.weight"),
                                       { bias: bias && bias.data }));
  }

  conv(path, x, stride = 1) {
    const weight = found(this.params, `${path}.weight`);                  // [K, C, R, S]
    const padding = convPadding(weight.shape[2], stride);
    return this.done(path, conv2d(x, weight, { stride, padding }));
  }

  normAct(path, x) {
    return this.done(path, normAct(x, normOf(this.params, path)));
  }

  // Silence the channels that are switched off, tell what came out, and hand it on.
  done(path, y) {
    const plane = y.shape[1] * y.shape[2];
    for (let c = 0; c < y.shape[0]; c++) {
      if (this.change.off.has(`${path}:${c}`)) y.data.fill(0, c * plane, (c + 1) * plane);
    }
    this.tap(path, y);
    return y;
  }
}
