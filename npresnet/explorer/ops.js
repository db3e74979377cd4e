// The operations in plain JavaScript: the twins of npresnet/ops/*.py, for one picture at a time.
//
// A tensor is {shape: [C, H, W], data: Float32Array}, channels first, row by row. Sums run in
// double precision, which all of JavaScript's numbers have, and are rounded to float32 once, when
// they are stored: as in the reference, so the two differ in the last digits only.
//
// Axes: C channels in, K channels out, R×S kernel, H×W pixels in, P×Q pixels out.

import { t } from "./text.js";

const EPS = 1e-5;                                  // of batch norm, as PyTorch's default

export function tensor(shape, data) {
  return { shape, data: data ?? new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}

// Stops of a kernel along one axis; an unfinished step doesn't count.
export function outputSize(size, kernel, stride, padding) {
  return Math.floor((size + 2 * padding - kernel) / stride) + 1;
}

// timm's padding: 7×7 → 3, 3×3 → 1, 1×1 → 0.
export function convPadding(kernel, stride = 1) {
  return Math.floor((stride - 1 + kernel - 1) / 2);
}

const TILE = 4;                                           // rows and columns of a block of sums

// Convolution by im2col and one matrix product: x [C, H, W], weight [K, C, R, S] → [K, P, Q].
// bias: K numbers, or null.
export function conv2d(x, weight, { bias = null, stride = 1, padding = 0 } = {}) {
  const [channels, h, w] = x.shape;
  const [k, c, r, s] = weight.shape;
  if (c !== channels) throw new Error(t("ops.channels", { c, channels }));
  const p = outputSize(h, r, stride, padding), q = outputSize(w, s, stride, padding);
  if (p < 1 || q < 1) throw new Error(t("ops.tooSmall", { r, s, h, w }));
  const panels = columns(x, r, s, stride, padding, p, q);
  const y = tensor([k, p, q]);
  product(weight.data, panels, y.data, k, c * r * s, p * q);
  if (bias) {
    for (let i = 0; i < k; i++) {
      for (let m = i * p * q; m < (i + 1) * p * q; m++) y.data[m] += bias[i];
    }
  }
  return y;
}

// What the kernel sees at each stop, as columns of a matrix (C·R·S, P·Q). Four columns lie next to
// each other, row by row, so that the product reads them in one go: ⌈P·Q / 4⌉ panels of
// (C·R·S, 4), the last filled up with zeros.
function columns(x, r, s, stride, padding, p, q) {
  const [channels, h, w] = x.shape;
  const depth = channels * r * s;
  const panels = new Float32Array(Math.ceil((p * q) / TILE) * depth * TILE);
  let row = 0;
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < r; i++) {
      for (let j = 0; j < s; j++, row++) {
        for (let y = 0; y < p; y++) {
          const top = y * stride + i - padding;
          if (top < 0 || top >= h) continue;              // the padding is zero, and so are they
          const line = (c * h + top) * w;
          for (let z = 0; z < q; z++) {
            const left = z * stride + j - padding;
            if (left < 0 || left >= w) continue;
            const m = y * q + z;
            panels[((m >> 2) * depth + row) * TILE + (m & 3)] = x.data[line + left];
          }
        }
      }
    }
  }
  return panels;
}

// out (K, M) = a (K, D) @ panels (D, M as above). A block of 4×4 sums at a time stays in variables:
// each number that is read takes part in four multiply-adds.
function product(a, panels, out, k, depth, m) {
  const rows = new Float32Array(depth * TILE);            // four rows of a, interleaved
  for (let i = 0; i < k; i += TILE) {
    const height = Math.min(TILE, k - i);
    rows.fill(0);
    for (let t = 0; t < height; t++) {
      for (let d = 0; d < depth; d++) rows[d * TILE + t] = a[(i + t) * depth + d];
    }
    for (let j = 0; j < m; j += TILE) {
      const width = Math.min(TILE, m - j);
      const sums = block(rows, panels, j * depth, depth);
      for (let t = 0; t < height; t++) {
        for (let u = 0; u < width; u++) out[(i + t) * m + j + u] = sums[t * TILE + u];
      }
    }
  }
}

const SUMS = new Float64Array(TILE * TILE);

function block(rows, panels, start, depth) {
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
  let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
  for (let d = 0, e = start; d < depth * TILE; d += TILE, e += TILE) {
    const a0 = rows[d], a1 = rows[d + 1], a2 = rows[d + 2], a3 = rows[d + 3];
    const b0 = panels[e], b1 = panels[e + 1], b2 = panels[e + 2], b3 = panels[e + 3];
    s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
    s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
    s20 += a2 * b0; s21 += a2 * b1; s22 += a2 * b2; s23 += a2 * b3;
    s30 += a3 * b0; s31 += a3 * b1; s32 += a3 * b2; s33 += a3 * b3;
  }
  SUMS[0] = s00; SUMS[1] = s01; SUMS[2] = s02; SUMS[3] = s03;
  SUMS[4] = s10; SUMS[5] = s11; SUMS[6] = s12; SUMS[7] = s13;
  SUMS[8] = s20; SUMS[9] = s21; SUMS[10] = s22; SUMS[11] = s23;
  SUMS[12] = s30; SUMS[13] = s31; SUMS[14] = s32; SUMS[15] = s33;
  return SUMS;
}

// Batch norm with the statistics of training, and its ReLU: [C, H, W], shape unchanged.
// NaN stays NaN, as in PyTorch.
export function normAct(x, norm) {
  const y = batchNorm(x, norm);
  for (let i = 0; i < y.data.length; i++) {
    if (y.data[i] < 0) y.data[i] = 0;
  }
  return y;
}

// The same before the ReLU: x · scale + shift.
export function batchNorm(x, norm) {
  const [channels, h, w] = x.shape, y = tensor(x.shape);
  for (let c = 0; c < channels; c++) {
    const [scale, shift] = scaleAndShift(norm, c);
    for (let i = c * h * w; i < (c + 1) * h * w; i++) y.data[i] = x.data[i] * scale + shift;
  }
  return y;
}

// What batch norm does to channel c, [scale, shift]: float32 at each step, as in the reference, so
// that the results are the same to the last bit.
export function scaleAndShift({ weight, bias, mean, variance }, c) {
  const single = Math.fround;
  const spread = single(Math.sqrt(single(variance[c] + single(EPS))));
  const scale = single(single(1 / spread) * weight[c]);
  return [scale, single(bias[c] - mean[c] * scale)];
}

export function add(x, other) {
  const y = tensor(x.shape);
  for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[i] + other.data[i];
  return y;
}

// The largest pixel under each stop. The border counts as −∞, so it never wins; NaN does.
export function maxPool2d(x, kernel, stride, padding) {
  const [channels, h, w] = x.shape;
  const p = outputSize(h, kernel, stride, padding), q = outputSize(w, kernel, stride, padding);
  const y = tensor([channels, p, q]);
  for (let c = 0, at = 0; c < channels; c++) {
    for (let i = 0; i < p; i++) {
      const top = Math.max(i * stride - padding, 0);
      const bottom = Math.min(i * stride - padding + kernel, h);
      for (let j = 0; j < q; j++, at++) {
        const left = Math.max(j * stride - padding, 0);
        const right = Math.min(j * stride - padding + kernel, w);
        let largest = -Infinity;
        for (let a = top; a < bottom; a++) {
          for (let b = left; b < right; b++) {
            const value = x.data[(c * h + a) * w + b];
            if (value > largest || value !== value) largest = value;
          }
        }
        y.data[at] = largest;
      }
    }
  }
  return y;
}

// The mean of 2×2 pixels, stride 2. An odd last row or column is averaged on its own.
export function avgPool2d(x) {
  const [channels, h, w] = x.shape, p = Math.ceil(h / 2), q = Math.ceil(w / 2);
  const y = tensor([channels, p, q]);
  for (let c = 0, at = 0; c < channels; c++) {
    for (let i = 0; i < p; i++) {
      for (let j = 0; j < q; j++, at++) {
        let sum = 0, count = 0;
        for (let a = 2 * i; a < Math.min(2 * i + 2, h); a++) {
          for (let b = 2 * j; b < Math.min(2 * j + 2, w); b++, count++) {
            sum += x.data[(c * h + a) * w + b];
          }
        }
        y.data[at] = sum / count;
      }
    }
  }
  return y;
}

// The mean of each channel: [C, H, W] → [C, 1, 1].
export function globalAvgPool(x) {
  const [channels, h, w] = x.shape, y = tensor([channels, 1, 1]);
  for (let c = 0; c < channels; c++) {
    let sum = 0;
    for (let i = c * h * w; i < (c + 1) * h * w; i++) sum += x.data[i];
    y.data[c] = sum / (h * w);
  }
  return y;
}

// Logits → shares. The largest is taken off first, so that no power overflows.
export function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / total);
}
