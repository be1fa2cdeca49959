// A task's view of its own attempt, over the functions of a worker or of a test.

import { Binary } from "./binary.js";
import { Fatal, HostError, ofNotice } from "./errors.js";
import { cut } from "./text.js";

const MESSAGE_BYTES = 1024;
/** The contract takes longer spans as the longest; numbers above are not exact. */
const LONGEST_MS = Number.MAX_SAFE_INTEGER;

/** Whole milliseconds, rounded up, so that a wait of half a millisecond is a wait. */
function millis(value, what) {
  if (typeof value !== "number" || Number.isNaN(value) || value < 0) {
    throw new Fatal("invalid", `${what} is ${String(value)}, not a number of milliseconds`);
  }
  return Math.min(Math.ceil(value), LONGEST_MS);
}

export class Context {
  #host;
  #info;

  constructor(host) {
    this.#host = host;
    this.log = new Log(host);
    this.checkpoint = new Checkpoint(host);
    this.children = new Children(host);
    this.secrets = Object.freeze({
      placeholder: (name) => host.secretPlaceholder(String(name)),
      reveal: (name) => host.revealSecret(String(name)),
    });
  }

  get info() {
    this.#info ??= Object.freeze({ ...this.#host.info() });
    return this.#info;
  }

  header(name) {
    const wanted = name.toLowerCase();
    return this.info.headers.find(([key]) => key.toLowerCase() === wanted)?.[1];
  }

  heartbeat() {
    stopped(this.beat());
  }

  beat() {
    return this.#host.heartbeat();
  }

  progress(fraction, message, data) {
    const known = typeof fraction === "number" && !Number.isNaN(fraction);
    stopped(
      this.#host.progress({
        fraction: known ? Math.min(Math.max(fraction, 0), 1) : null,
        message: message === undefined || message === null ? null : cut(String(message), MESSAGE_BYTES),
        data: data === undefined ? null : data instanceof Binary ? data : Binary.json(data),
      }),
    );
  }

  stopRequested() {
    return this.#host.stopRequested();
  }

  timeLeft() {
    const [softMs, hardMs] = this.#host.timeLeft();
    return { softMs, hardMs };
  }

  extendLease(ms) {
    return this.#host.extendLease(millis(ms, "the lease"));
  }

  sleep(ms) {
    const duration = millis(ms, "the sleep");
    try {
      this.#host.sleep(duration);
    } catch (error) {
      if (error instanceof HostError && error.code === "stopping") stopped(this.#host.stopRequested());
      throw error;
    }
  }

  config(name) {
    return this.#host.config(String(name)) ?? undefined;
  }

  bucket(name) {
    return new Bucket(this.#host, String(name));
  }
}

function stopped(notice) {
  if (notice) throw ofNotice(notice);
}

/** JSON that the task writes or reads, with a code of its own where that is not possible. */
function json(code, work) {
  try {
    return work();
  } catch (error) {
    throw new Fatal(code, error.message, { cause: error });
  }
}

class Checkpoint {
  #host;

  constructor(host) {
    this.#host = host;
  }

  load() {
    const bytes = this.#host.loadCheckpoint();
    return bytes === null ? undefined : json("invalid-checkpoint", () => new Binary("", bytes).json());
  }

  save(state) {
    this.#host.saveCheckpoint(json("invalid-checkpoint", () => Binary.json(state)).bytes);
  }

  loadBytes() {
    return this.#host.loadCheckpoint() ?? undefined;
  }

  saveBytes(bytes) {
    this.#host.saveCheckpoint(bytes);
  }
}

class Children {
  #host;

  constructor(host) {
    this.#host = host;
  }

  enqueue(children, { onSuccess = false } = {}) {
    const requests = [children].flat().map(({ taskName, input = {}, queue, delayMs, dedupKey, headers = {} }) => ({
      taskName: String(taskName),
      queue: queue ?? null,
      input: input instanceof Binary ? input : json("invalid-child", () => Binary.json(input)),
      delayMs: delayMs === undefined ? null : millis(delayMs, "the delay"),
      dedupKey: dedupKey ?? null,
      headers: Object.entries(headers).map(([name, value]) => [name, String(value)]),
    }));
    return this.#host.enqueue(requests, onSuccess ? "on-success" : "now");
  }
}

class Bucket {
  #host;
  #name;

  constructor(host, name) {
    this.#host = host;
    this.#name = name;
  }

  get(key) {
    const entry = this.getBytes(key);
    return entry && { value: json("invalid-value", () => new Binary("", entry.value).json()), version: entry.version };
  }

  put(key, value, options) {
    return this.putBytes(key, json("invalid-value", () => Binary.json(value)).bytes, options);
  }

  getBytes(key) {
    return this.#host.readBucket(this.#name, String(key)) ?? undefined;
  }

  putBytes(key, bytes, { ttlMs, ...when } = {}) {
    const ttl = ttlMs === undefined ? null : millis(ttlMs, "ttlMs");
    return this.#host.writeBucket(this.#name, String(key), bytes, condition(when), ttl);
  }

  remove(key, when = {}) {
    this.#host.removeFromBucket(this.#name, String(key), condition(when));
  }
}

function condition({ ifAbsent = false, ifVersion }) {
  if (ifVersion !== undefined) return { tag: "if-version", val: ifVersion };
  return { tag: ifAbsent ? "if-absent" : "always" };
}

class Log {
  #host;

  constructor(host) {
    this.#host = host;
  }

  write(level, message, fields = {}) {
    const named = Object.entries(fields).map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
    this.#host.log(level, String(message), named);
  }

  isEnabled(level) {
    return this.#host.logEnabled(level);
  }

  trace(message, fields) {
    this.write("trace", message, fields);
  }

  debug(message, fields) {
    this.write("debug", message, fields);
  }

  info(message, fields) {
    this.write("info", message, fields);
  }

  warn(message, fields) {
    this.write("warn", message, fields);
  }

  error(message, fields) {
    this.write("error", message, fields);
  }
}
