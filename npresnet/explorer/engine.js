// Runs the network in a Web Worker, so that the page stays alive meanwhile. Of the runs that are
// asked for while one is under way, only the newest is done: the others resolve to null.

export class Engine {
  // source: the worker's JavaScript. onProgress(share): called now and then in a long run.
  constructor(source, onProgress = () => {}) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.waiting = [];
    this.current = null;
    this.onProgress = onProgress;
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.receive({ error: event.message });
  }

  // The bytes of a .safetensors file. Later runs use them. The buffer is copied.
  load(buffer) {
    return this.ask({ weights: buffer });
  }

  // x [3, H, W]; change: see network.js; needed: done even if there is a newer one
  // → {activations: Map of path → tensor, ms}
  run(x, change, needed) {
    return this.ask({ x, change }, needed);
  }

  ask(message, needed = true) {
    return new Promise((resolve, reject) => {
      const job = { message, needed, resolve, reject };
      if (!this.current) {
        this.start(job);
      } else {
        if (!message.weights) this.dropRuns();
        this.waiting.push(job);
      }
    });
  }

  // Weights that wait stay in their place.
  dropRuns() {
    for (const { needed, resolve } of this.waiting) if (!needed) resolve(null);
    this.waiting = this.waiting.filter(({ needed }) => needed);
  }

  start(job) {
    this.current = job;
    this.worker.postMessage(job.message);
  }

  receive(data) {
    if (data.progress !== undefined) return this.onProgress(data.progress);
    const { resolve, reject } = this.current;
    this.current = null;
    if (this.waiting.length) this.start(this.waiting.shift());
    if (data.error) return reject(new Error(data.error));
    const activations = new Map(data.taps);
    return resolve({ activations, ms: data.ms });
  }
}
