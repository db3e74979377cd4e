// What runs in the Web Worker: takes weights once, then pictures, and answers with every layer.

import { Network } from "./network.js";
import { readSafetensors } from "./safetensors.js";

const PATIENCE = 300;                                     // ms between two reports of progress
let params = null;

self.onmessage = ({ data }) => {
  try {
    if (data.weights) {
      params = readSafetensors(data.weights);
      self.postMessage({ taps: [], ms: 0 });
      return;
    }
    const started = performance.now(), taps = [];
    let reported = started;
    const tap = (path, { shape, data: numbers }) => {
      taps.push([path, { shape, data: numbers }]);
      if (performance.now() - reported > PATIENCE) {
        reported = performance.now();
        self.postMessage({ progress: taps.length });
      }
    };
    new Network(params, { tap, change: data.change }).forward(data.x);
    const ms = performance.now() - started;
    const buffers = new Set(taps.map(([, y]) => y.data.buffer));   // a stage is its last block
    self.postMessage({ taps, ms }, [...buffers]);
  } catch (error) {
    self.postMessage({ error: error.message });
  }
};
