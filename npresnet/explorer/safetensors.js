// Reads a .safetensors file: 8 bytes of length, a header in JSON, then the numbers.
//
// The twin of npresnet/tensor_files.py. A damaged file gives an Error in plain words; nothing that
// the header says is believed before it is checked against the bytes that are there.

import { t } from "./text.js";

const BYTES = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8 };
const HEADER_LIMIT = 100_000_000;

// ArrayBuffer → Map of name → {shape, data: Float32Array}. Whole numbers (counters) are left out.
export function readSafetensors(buffer) {
  const [header, start] = readHeader(buffer);
  const tensors = new Map(), taken = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: place } = entry ?? {};
    const isCount = (n) => Number.isSafeInteger(n) && n >= 0;
    if (!Array.isArray(shape) || !shape.every(isCount) || !Array.isArray(place)
        || place.length !== 2 || !place.every(isCount)) {
      throw new Error(t("weights.entry", { name }));
    }
    if (!(dtype in BYTES)) throw new Error(t("weights.dtype", { name, dtype }));
    const [begin, end] = place, count = shape.reduce((a, b) => a * b, 1);
    if (end - begin !== count * BYTES[dtype]) {
      throw new Error(t("weights.bytes", { name, bytes: end - begin, count }));
    }
    if (start + end > buffer.byteLength) {
      throw new Error(t("weights.short", { name }));
    }
    taken.push([begin, end]);
    if (dtype !== "I64") {
      tensors.set(name, { shape, data: numbers(buffer.slice(start + begin, start + end), dtype) });
    }
  }
  taken.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let end = 0;
  for (const [from, to] of taken) {
    if (from !== end) throw new Error(t("weights.overlap"));
    end = to;
  }
  if (start + end !== buffer.byteLength) throw new Error(t("weights.long"));
  return tensors;
}

function readHeader(buffer) {
  if (buffer.byteLength < 8) throw new Error(t("weights.tiny"));
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  if (length > Math.min(buffer.byteLength - 8, HEADER_LIMIT)) {
    throw new Error(t("weights.header"));
  }
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true })
      .decode(new Uint8Array(buffer, 8, length)));
  } catch {
    throw new Error(t("weights.json"));
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new Error(t("weights.list"));
  }
  return [header, 8 + length];
}

// Bytes as float32. Each float16 and bfloat16 is a float32, too: nothing is rounded.
function numbers(bytes, dtype) {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "F64") return Float32Array.from(new Float64Array(bytes));
  const half = new Uint16Array(bytes), out = new Float32Array(half.length);
  if (dtype === "BF16") {                                 // the upper half of a float32's bits
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < half.length; i++) bits[i] = half[i] << 16;
    return out;
  }
  for (let i = 0; i < half.length; i++) out[i] = decodeFloat16(half[i]);
  return out;
}

// 16 bits: a sign, 5 of the exponent, 10 of the fraction.
function decodeFloat16(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
