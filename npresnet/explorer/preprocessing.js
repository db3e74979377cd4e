// From pixels to the network's input, as npresnet/data.py and Pillow do it, bit for bit.
//
// The browser decodes the file; all after that is here: Pillow's antialiased bicubic in its own
// whole numbers, the cut in the middle, and (pixel / 255 − mean) / std in float32.
//
// Pictures are {width, height, data: Uint8ClampedArray or Uint8Array} with 3 bytes a pixel.
// Source: Pillow src/libImaging/Resample.c; chapter 2 of the course takes it apart.

import { tensor } from "./ops.js";

const BITS = 32 - 8 - 2;                                  // of a weight in fixed point

// Pixels with alpha, as a canvas gives them → pixels without, over white, as `load_image` has it.
export function overWhite({ width, height, data }) {
  const out = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3];
    for (let c = 0; c < 3; c++) {
      // As Pillow's alpha_composite: a division by 255 that rounds to nearest.
      const sum = data[4 * i + c] * alpha + 255 * (255 - alpha) + 128;
      out[3 * i + c] = ((sum >> 8) + sum) >> 8;
    }
  }
  return { width, height, data: out };
}

// The size before the cut: the short edge becomes ⌊size / crop⌋, the long edge keeps the ratio.
function resizedSize(width, height, size, cropPct) {
  const short = Math.floor(size / cropPct);
  const long = Math.floor(short * Math.max(width, height) / Math.min(width, height));
  return width <= height ? [short, long] : [long, short];
}

// A picture → {width, height, data}: resized, the size×size pixels in the middle, and where in the
// picture they lie: {left, top, right, bottom} in its pixels.
export function crop(picture, { size, cropPct }, downFirst = true) {
  const [width, height] = resizedSize(picture.width, picture.height, size, cropPct);
  const left = halfToEven((width - size) / 2), top = halfToEven((height - size) / 2);
  const resized = resize(picture, width, height, downFirst);
  const data = new Uint8Array(size * size * 3);
  for (let i = 0; i < size; i++) {
    const start = ((top + i) * width + left) * 3;
    data.set(resized.data.subarray(start, start + size * 3), i * size * 3);
  }
  const across = picture.width / width, down = picture.height / height;
  const seen = { left: left * across, top: top * down,
                 right: (left + size) * across, bottom: (top + size) * down };
  return { width: size, height: size, data, seen };
}

// Pixels → the network's input x [3, H, W]: (pixel / 255 − mean) / std, each step in float32.
// order: which band goes into which channel.
export function scale({ width, height, data }, { mean, std }, order = [0, 1, 2]) {
  const x = tensor([3, height, width]), single = Math.fround, plane = width * height;
  for (let c = 0; c < 3; c++) {
    const m = single(mean[c]), s = single(std[c]);
    for (let i = 0; i < plane; i++) {
      const share = single(data[3 * i + order[c]] / 255);
      x.data[c * plane + i] = single(single(share - m) / s);
    }
  }
  return x;
}

function halfToEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

// Pillow's bicubic, antialiased: two passes, each rounded to bytes. Their order shows in the last
// bit. Until version 12 it was always across, then down. 13 goes down first where rows are saved
// for less than two columns each; this rule was found by trying 5,000 sizes.
function resize(picture, width, height, downFirst = true) {
  const columns = picture.width - width, rows = picture.height - height;
  return downFirst && rows > 0 && 2 * columns < rows
    ? across(down(picture, height), width)
    : down(across(picture, width), height);
}

function across(picture, width) {
  if (width === picture.width) return picture;
  const { height } = picture, line = picture.width * 3;
  const data = new Uint8ClampedArray(width * height * 3);
  const columns = weights(picture.width, width);
  for (let y = 0; y < height; y++) {                      // row by row, as they lie in memory
    for (let x = 0; x < width; x++) {
      const { first, fixed } = columns[x];
      for (let c = 0; c < 3; c++) {
        data[(y * width + x) * 3 + c] = sum(picture.data, y * line + first * 3 + c, 3, fixed);
      }
    }
  }
  return { width, height, data };
}

function down(picture, height) {
  if (height === picture.height) return picture;
  const { width } = picture, line = width * 3;
  const data = new Uint8ClampedArray(width * height * 3);
  weights(picture.height, height).forEach(({ first, fixed }, y) => {
    for (let x = 0; x < line; x++) {
      data[y * line + x] = sum(picture.data, first * line + x, line, fixed);
    }
  });
  return { width, height, data };
}

// A weighted sum of bytes in fixed point, rounded. It may lie outside of 0…255: storing clamps it.
function sum(bytes, start, step, fixed) {
  let total = 2 ** (BITS - 1);
  for (let i = 0, at = start; i < fixed.length; i++, at += step) total += bytes[at] * fixed[i];
  return Math.floor(total / 2 ** BITS);
}

// For each of `target` new pixels: the first old one that takes part, and the weights from there.
// Shrinking widens the kernel by the same factor, so that every old pixel counts.
function weights(source, target) {
  const ratio = source / target, widen = Math.max(ratio, 1), support = 2 * widen, all = [];
  for (let i = 0; i < target; i++) {
    const centre = (i + 0.5) * ratio;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), source);
    const share = [];
    for (let x = first; x < last; x++) share.push(bicubic((x - centre + 0.5) / widen));
    const total = share.reduce((a, b) => a + b, 0);
    all.push({ first, fixed: share.map((w) => {
      const scaled = w / total * 2 ** BITS;
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    }) });
  }
  return all;
}

// Keys' cubic with a = −0.5.
function bicubic(x) {
  const a = -0.5, d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}
