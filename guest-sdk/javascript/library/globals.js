// What programs expect to find in every engine and QuickJS has not: `console`, `TextEncoder`, `TextDecoder`. And randomness: the
// engine's state is kept from the build, so without a new seed every attempt would draw the same numbers.
//
// Imported before the task's own module, so that what runs at its top level finds them too.

import { decode, encode } from "./text.js";

let host;

const show = (value) => {
  if (typeof value === "string") return value;
  if (value instanceof Error) return value.stack ? `${value}\n${value.stack}` : String(value);
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
};

// At the top level of a module, that is at build time, there is no log to write to.
const writer = (level) => (...values) => host?.log(level, values.map(show).join(" "), []);

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

  decode(bytes = new Uint8Array()) {
    const view = ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : new Uint8Array(bytes);
    const text = decode(view, this.#fatal);
    return !this.#ignoreBOM && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }
};

/** Called as an attempt begins. */
export function begin(worker) {
  host = worker;
  const { taskId, attempt } = worker.info();
  seed(`${taskId} ${attempt} ${Date.now()} ${performance.now()}`);
}

/** `Math.random` as xoshiro128**, from a seed that differs in every attempt. Not for secrets. */
function seed(text) {
  let hash = 0x811c9dc5;
  const next = () => {
    hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    hash ^= hash >>> 16;
    return hash;
  };
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  let [a, b, c, d] = [next(), next(), next(), next() | 1];
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
  Math.random = () => ((draw() >>> 5) * 67108864 + (draw() >>> 6)) / 9007199254740992;
}
