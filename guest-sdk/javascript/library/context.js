// A task's view of its own attempt, over the functions of a worker or of a test.

import { Binary } from "./binary.js";
import { Fatal, HostError, ofNotice, ofThrown } from "./errors.js";
import { cut, show, wellFormed } from "./text.js";

const MESSAGE_BYTES = 1024;
/** The contract takes longer spans as the longest; numbers above are not exact. */
const LONGEST_MS = Number.MAX_SAFE_INTEGER;
const LEVELS = ["trace", "debug", "info", "warn", "error"];

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
      placeholder: (name) => host.secretPlaceholder(wellFormed(name)),
      reveal: (name) => host.revealSecret(wellFormed(name)),
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
        message: message === undefined || message === null ? null : cut(wellFormed(message), MESSAGE_BYTES),
        data: data === undefined ? null : written("invalid-progress", data),
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
    return this.#host.config(wellFormed(name)) ?? undefined;
  }

  bucket(name) {
    return new Bucket(this.#host, wellFormed(name));
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
    throw new Fatal(code, ofThrown(error).message, { cause: error });
  }
}

const written = (code, value) => (value instanceof Binary ? value : json(code, () => Binary.json(value)));
const octets = (code, bytes) => json(code, () => new Binary("", bytes)).bytes;
const given = (value, read) => (value === undefined || value === null ? null : read(value));

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
    this.#host.saveCheckpoint(written("invalid-checkpoint", state).bytes);
  }

  loadBytes() {
    return this.#host.loadCheckpoint() ?? undefined;
  }

  saveBytes(bytes) {
    this.#host.saveCheckpoint(octets("invalid-checkpoint", bytes));
  }
}

class Children {
  #host;

  constructor(host) {
    this.#host = host;
  }

  enqueue(children, { onSuccess = false } = {}) {
    const requests = [children].flat().map(({ taskName, input = {}, queue, delayMs, dedupKey, headers }) => {
      if (typeof taskName !== "string") throw new Fatal("invalid-child", `a child's taskName is ${show(taskName)}, not a text`);
      return {
        taskName: wellFormed(taskName),
        queue: given(queue, wellFormed),
        input: written("invalid-child", input),
        delayMs: given(delayMs, (ms) => millis(ms, "the delay")),
        dedupKey: given(dedupKey, wellFormed),
        headers: Object.entries(headers ?? {}).map(([name, value]) => [wellFormed(name), wellFormed(value)]),
      };
    });
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
    return this.putBytes(key, written("invalid-value", value).bytes, options);
  }

  getBytes(key) {
    return this.#host.readBucket(this.#name, wellFormed(key)) ?? undefined;
  }

  putBytes(key, bytes, { ttlMs, ...when } = {}) {
    const ttl = given(ttlMs, (ms) => millis(ms, "ttlMs"));
    return this.#host.writeBucket(this.#name, wellFormed(key), octets("invalid-value", bytes), condition(when), ttl);
  }

  remove(key, when = {}) {
    this.#host.removeFromBucket(this.#name, wellFormed(key), condition(when));
  }
}

function condition(when) {
  const { ifAbsent = false, ifVersion } = when;
  if (!Object.hasOwn(when, "ifVersion")) return { tag: ifAbsent ? "if-absent" : "always" };
  // Not taken for no condition: it is mostly the version of an entry that was not there, and the write would lose another's.
  if (!Number.isSafeInteger(ifVersion) || ifVersion < 0) throw new Fatal("invalid", `ifVersion is ${show(ifVersion)}; where no value is, say ifAbsent`);
  if (ifAbsent) throw new Fatal("invalid", "ifAbsent and ifVersion cannot both hold");
  return { tag: "if-version", val: ifVersion };
}

function known(level) {
  if (!LEVELS.includes(level)) throw new TypeError(`a log level is ${LEVELS.join(", ")}, not ${show(level)}`);
  return level;
}

class Log {
  #host;

  constructor(host) {
    this.#host = host;
  }

  write(level, message, fields = {}) {
    known(level);
    const named = Object.entries(fields).map(([name, value]) => [wellFormed(name), wellFormed(show(value))]);
    this.#host.log(level, wellFormed(show(message)), named);
  }

  isEnabled(level) {
    return this.#host.logEnabled(known(level));
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
