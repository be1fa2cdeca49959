// What programs expect to find in every engine and QuickJS has not: `console`, `TextEncoder`, `TextDecoder`. And randomness: the
// engine's state is kept from the build, so without a new seed every attempt would draw the same numbers.
//
// Imported before the task's own module, so that what runs at its top level finds them too.

import { decode, encode, show, wellFormed } from "./text.js";

let host;

// At the top level of a module, that is at build time, there is no log to write to.
const writer = (level) => (...values) => host?.log(level, wellFormed(values.map(show).join(" ")), []);

globalThis.console ??= {
  trace: writer("trace"),
  debug: writer("debug"),
  log: writer("info"),
  info: writer("info"),
  warn: writer("warn"),
  error: writer("error"),
};

globalThis.TextEncoder ??= class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    return encode(String(text));
  }
};

globalThis.TextDecoder ??= class TextDecoder {
  #fatal;
  #ignoreBOM;

  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!/^utf-?8$/i.test(label)) throw new RangeError(`TextDecoder knows UTF-8 only, not ${label}`);
    this.#fatal = fatal;
    this.#ignoreBOM = ignoreBOM;
  }

  get encoding() {
    return "utf-8";
  }

  decode(bytes = new Uint8Array(), { stream = false } = {}) {
    if (stream) throw new TypeError("this TextDecoder reads whole texts only: it has no option stream");
    const view = ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : new Uint8Array(bytes);
    const text = decode(view, this.#fatal);
    return !this.#ignoreBOM && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }
};

const elapsed = performance.now.bind(performance);
let began = 0;
let timeOrigin = 0;

// QuickJS counts from a moment of the build. The other engine does not, and must not be asked for the time while it builds.
if (typeof globalThis.__cqjs === "object") {
  globalThis.performance = {
    now: () => elapsed() - began,
    get timeOrigin() {
      return timeOrigin;
    },
  };
}

/** Called as an attempt begins. */
export function begin(worker) {
  host = worker;
  began = elapsed();
  timeOrigin = Date.now();
  const { taskId, attempt } = worker.info();
  seed(`${taskId} ${attempt} ${timeOrigin} ${began}`);
}

let random = Math.random;

// In place before the task's modules are: libraries keep the function at their top level, and must not keep the one whose state
// comes from the build.
Math.random = () => random();

/** `Math.random` as xoshiro128**, from a seed that differs in every attempt. Not for secrets. */
function seed(text) {
  let [a, b, c, d] = [0x9e3779b9, 0x243f6a88, 0xb7e15162, 0x6a09e667];
  const rotate = (value, by) => (value << by) | (value >>> (32 - by));
  const draw = () => {
    const drawn = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    return drawn;
  };
  // All 128 bits of the state take part, so that no two attempts come to draw the same numbers.
  for (let i = 0; i < text.length; i++) {
    a ^= text.charCodeAt(i);
    draw();
  }
  for (let round = 0; round < 64; round++) draw();
  random = () => ((draw() >>> 5) * 67108864 + (draw() >>> 6)) / 9007199254740992;
}
