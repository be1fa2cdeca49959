// Attempts without a worker: a host that keeps the contract's bounds, for tests in Node.js. Its clock is its own: a sleep takes
// no time, and only what the test says does.

import { Binary } from "./binary.js";
import { Context } from "./context.js";
import { Fatal, HostError } from "./errors.js";
import { perform } from "./task.js";
import { cut, encodeUtf8 } from "./text.js";

const LEVELS = ["trace", "debug", "info", "warn", "error"];
const BOUNDS = { result: 1 << 20, checkpoint: 256 << 10, message: 1024, data: 16 << 10, line: 4096, fields: 32, value: 64 << 10 };
const DEFAULT_INFO = {
  taskId: "test-1",
  taskName: "test",
  queue: "default",
  attempt: 1,
  maxAttempts: null,
  enqueuedAt: new Date(0),
  parentId: null,
  rootId: "test-1",
  idempotencyKey: "test-1",
  traceParent: null,
  headers: [],
};

/** Carried by the unwinding that stands for an end by force. */
class Ended extends Error {}

const refuse = (tag, val) => {
  throw new HostError({ tag, val });
};

const within = (size, bound) => {
  if (size > bound) refuse("too-large", bound);
};

const saved = (state) => (state instanceof Uint8Array ? state.slice() : Binary.json(state).bytes);

class TestHost {
  constructor(script) {
    this.script = script;
    this.checkpoint = script.checkpoint === undefined ? null : saved(script.checkpoint);
    this.buckets = new Map();
    this.versions = 0;
    for (const [name, values] of Object.entries(script.buckets ?? {})) {
      const bucket = new Map();
      for (const [key, value] of Object.entries(values)) bucket.set(key, { value: saved(value), version: ++this.versions });
      this.buckets.set(name, bucket);
    }
    this.progressed = [];
    this.lines = [];
    this.children = [];
    this.beats = 0;
    this.elapsedMs = 0;
    this.ended = false;
  }

  /** Every call of the host begins here, as in a worker. */
  enter() {
    const { terminateAfterBeats: beats, hardMs } = this.script;
    if ((beats !== undefined && this.beats >= beats) || (hardMs !== undefined && this.elapsedMs >= hardMs)) {
      this.ended = true;
      throw new Ended("the attempt was ended by force");
    }
  }

  beat() {
    const pending = this.pending();
    this.beats++;
    this.elapsedMs += this.script.beatTakesMs ?? 0;
    return pending;
  }

  left(limit) {
    return limit === undefined ? null : Math.max(limit - this.elapsedMs, 0);
  }

  pending() {
    const { stop, softMs, hardMs } = this.script;
    if (stop && this.beats >= (stop.afterBeats ?? 0)) {
      return { code: stop.code, message: stop.message ?? "", graceMs: stop.graceMs ?? null };
    }
    if (softMs !== undefined && this.elapsedMs >= softMs) {
      return { code: "soft-time-limit", message: "", graceMs: this.left(hardMs) };
    }
    return null;
  }

  service() {
    if (this.script.unavailable) refuse("unavailable", "the test host was told to be");
  }

  info() {
    this.enter();
    return { ...DEFAULT_INFO, ...this.script.info };
  }

  heartbeat() {
    this.enter();
    return this.beat();
  }

  progress({ fraction, message, data }) {
    this.enter();
    if (fraction !== null && !(fraction >= 0 && fraction <= 1)) refuse("invalid", "the fraction is not within 0 and 1");
    within(encodeUtf8(message ?? "").length, BOUNDS.message);
    within(data?.bytes.length ?? 0, BOUNDS.data);
    this.progressed.push({ fraction, message, data });
    return this.beat();
  }

  stopRequested() {
    this.enter();
    return this.pending();
  }

  timeLeft() {
    this.enter();
    return [this.left(this.script.softMs), this.left(this.script.hardMs)];
  }

  extendLease(ms) {
    this.enter();
    this.service();
    return Math.min(ms, this.script.maxLeaseMs ?? 3_600_000);
  }

  sleep(ms) {
    this.enter();
    if (this.pending()) refuse("stopping");
    const limits = [this.script.softMs, this.script.hardMs].filter((at) => at !== undefined && at > this.elapsedMs);
    this.elapsedMs = Math.min(this.elapsedMs + ms, ...limits);
    this.enter();
    if (this.pending()) refuse("stopping");
  }

  log(level, message, fields) {
    if (!this.logEnabled(level)) return;
    let room = BOUNDS.line;
    const keep = (text) => {
      const kept = cut(text, room);
      room -= encodeUtf8(kept).length;
      return kept;
    };
    const line = { level, message: keep(message), fields: {} };
    for (const [name, value] of fields.slice(0, BOUNDS.fields)) line.fields[keep(name)] = keep(value);
    this.lines.push(line);
  }

  logEnabled(level) {
    this.enter();
    return LEVELS.indexOf(level) >= LEVELS.indexOf(this.script.logLevel ?? "trace");
  }

  loadCheckpoint() {
    this.enter();
    this.service();
    return this.checkpoint;
  }

  saveCheckpoint(bytes) {
    this.enter();
    within(bytes.length, BOUNDS.checkpoint);
    this.service();
    this.checkpoint = bytes.slice();
  }

  enqueue(requests, release) {
    this.enter();
    this.service();
    return requests.map((request) => {
      this.children.push({ ...request, release });
      return `child-${this.children.length}`;
    });
  }

  bucket(name) {
    const bucket = this.buckets.get(name);
    if (!bucket) refuse("denied", `kv = ["${name}:rw"]`);
    this.service();
    return bucket;
  }

  held(bucket, key, { tag, val }) {
    const entry = bucket.get(key);
    if ((tag === "if-absent" && entry) || (tag === "if-version" && entry?.version !== val)) refuse("conflict");
    return entry;
  }

  readBucket(name, key) {
    this.enter();
    return this.bucket(name).get(key) ?? null;
  }

  writeBucket(name, key, value, when) {
    this.enter();
    within(value.length, BOUNDS.value);
    const bucket = this.bucket(name);
    this.held(bucket, key, when);
    bucket.set(key, { value: value.slice(), version: ++this.versions });
    return this.versions;
  }

  removeFromBucket(name, key, when) {
    this.enter();
    const bucket = this.bucket(name);
    if (!bucket.has(key)) refuse("not-found");
    this.held(bucket, key, when);
    bucket.delete(key);
  }

  config(name) {
    this.enter();
    const known = this.script.config ?? {};
    return Object.hasOwn(known, name) ? known[name] : refuse("denied", `config = ["${name}"]`);
  }

  secret(name) {
    this.enter();
    const known = this.script.secrets ?? {};
    return Object.hasOwn(known, name) ? known[name] : refuse("denied", `secrets = ["${name}"]`);
  }

  secretPlaceholder(name) {
    this.secret(name);
    return `placeholder-of-${name}`;
  }

  revealSecret(name) {
    return encodeUtf8(this.secret(name));
  }
}

export async function attempt(task, script = {}) {
  const host = new TestHost(script);
  const payload = script.input instanceof Binary ? script.input : Binary.json(script.input ?? {});
  let binary;
  let failure;
  try {
    binary = await perform(task, new Context(host), payload);
    if (binary.bytes.length > BOUNDS.result) {
      throw new Fatal("result-too-large", `${binary.bytes.length} bytes, over the bound of ${BOUNDS.result}`);
    }
  } catch (error) {
    binary = undefined;
    failure = error;
  }
  return new Attempt(host, host.ended ? {} : { binary, failure });
}

class Attempt {
  #host;

  constructor(host, { binary, failure }) {
    this.#host = host;
    this.binary = binary;
    this.failure = failure;
    this.terminated = host.ended;
    this.progress = host.progressed;
    this.log = host.lines;
    this.children = host.children;
    this.beats = host.beats;
    this.elapsedMs = host.elapsedMs;
  }

  get result() {
    if (this.failure) throw this.failure;
    if (this.terminated) throw new Error("the attempt was ended by force: it has no result");
    return this.binary.json();
  }

  get checkpoint() {
    const { checkpoint } = this.#host;
    return checkpoint === null ? undefined : new Binary("", checkpoint).json();
  }

  get checkpointBytes() {
    return this.#host.checkpoint ?? undefined;
  }

  bucket(name) {
    const values = {};
    for (const [key, { value }] of this.#host.buckets.get(name) ?? []) values[key] = new Binary("", value).json();
    return values;
  }
}
