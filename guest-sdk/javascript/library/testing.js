// Attempts without a worker: a host that keeps the contract's bounds, for tests in Node.js. Its clock is its own: a sleep takes
// no time, and only what the test says does.

import { Binary } from "./binary.js";
import { Context } from "./context.js";
import { Fatal, HostError } from "./errors.js";
import { perform } from "./task.js";
import { cut, encodeUtf8 } from "./text.js";

const LEVELS = ["trace", "debug", "info", "warn", "error"];
const BOUNDS = { payload: 1 << 20, result: 1 << 20, checkpoint: 256 << 10, message: 1024, data: 16 << 10, line: 4096, fields: 32 };
const CHILDREN = { perCall: 100, perAttempt: 1000, headers: 64, header: 4096 };
const KV = { bucket: 128, key: 512, value: 64 << 10 };
const SETTING = 128;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}$/;
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

const denied = (grant) => refuse("denied", `no grant covers it: put ${grant} under [handlers.NAME.grants] in stem.toml`);

/** The rules for the name of a setting or a secret. */
const nameWithin = (name) => {
  if (name === "") refuse("invalid", "the name is empty");
  within(encodeUtf8(name).length, SETTING);
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
      for (const [key, value] of Object.entries(values)) bucket.set(key, { value: saved(value), version: ++this.versions, until: Infinity });
      this.buckets.set(name, bucket);
    }
    this.progressed = [];
    this.lines = [];
    this.children = [];
    this.asked = 0;
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
    return this.checkpoint && this.checkpoint.slice();
  }

  saveCheckpoint(bytes) {
    this.enter();
    within(bytes.length, BOUNDS.checkpoint);
    this.service();
    this.checkpoint = bytes.slice();
  }

  enqueue(requests, release) {
    this.enter();
    if (requests.length > CHILDREN.perCall) refuse("invalid", `${requests.length} tasks in one call; ${CHILDREN.perCall} are allowed`);
    for (const request of requests) this.admit(request);
    if (this.asked + requests.length > CHILDREN.perAttempt) refuse("quota", "tasks enqueued by this attempt");
    this.service();
    this.asked += requests.length;
    return requests.map((request) => {
      const same = request.dedupKey === null ? undefined : this.children.find(({ dedupKey }) => dedupKey === request.dedupKey);
      if (same) return same.id;
      const id = `child-${this.children.length + 1}`;
      this.children.push({ id, ...request, release });
      return id;
    });
  }

  /** A child as the worker takes it, and one that is granted. */
  admit({ taskName, queue, input, dedupKey, headers }) {
    const granted = (name) => (name.endsWith("*") ? taskName.startsWith(name.slice(0, -1)) : taskName === name);
    if (!NAME.test(taskName)) refuse("invalid", `task name ${taskName}`);
    if (!(this.script.children ?? []).some(granted)) denied(`children = ["${taskName}"]`);
    if (queue !== null && !NAME.test(queue)) refuse("invalid", `queue name ${queue}`);
    if (dedupKey !== null && !NAME.test(dedupKey)) refuse("invalid", `dedup-key ${dedupKey}`);
    const long = ([name, value]) => encodeUtf8(name + value).length > CHILDREN.header;
    if (headers.length > CHILDREN.headers || headers.some((header) => header[0] === "" || long(header))) refuse("invalid", "headers");
    within(input.bytes.length, BOUNDS.payload);
  }

  /** A bucket that may be used so. */
  bucket(name, key, change) {
    this.enter();
    within(encodeUtf8(name).length, KV.bucket);
    within(encodeUtf8(key).length, KV.key);
    if (!NAME.test(name) || name.includes(":")) refuse("invalid", `bucket ${name}`);
    if (key === "" || /\p{Cc}/u.test(key)) refuse("invalid", "a key is not empty and holds no control character");
    const bucket = this.buckets.get(name);
    if (!bucket || (change && this.script.readOnlyBuckets?.includes(name))) denied(`kv = ["${name}${change ? ":rw" : ""}"]`);
    return bucket;
  }

  /** What is there, and not over its time. */
  held(bucket, key) {
    this.service();
    const entry = bucket.get(key);
    return entry && this.elapsedMs < entry.until ? entry : undefined;
  }

  readBucket(name, key) {
    const entry = this.held(this.bucket(name, key, false), key);
    return entry ? { value: entry.value.slice(), version: entry.version } : null;
  }

  writeBucket(name, key, value, { tag, val }, ttl) {
    const bucket = this.bucket(name, key, true);
    within(value.length, KV.value);
    if (ttl === 0) refuse("invalid", "a value is kept for 1 ms or longer");
    const entry = this.held(bucket, key);
    if ((tag === "if-absent" && entry) || (tag === "if-version" && entry?.version !== val)) refuse("conflict");
    bucket.set(key, { value: value.slice(), version: ++this.versions, until: ttl === null ? Infinity : this.elapsedMs + ttl });
    return this.versions;
  }

  removeFromBucket(name, key, { tag, val }) {
    const bucket = this.bucket(name, key, true);
    if (tag === "if-absent") refuse("invalid", "a value that is not there cannot be removed");
    const entry = this.held(bucket, key);
    if (!entry) refuse("not-found");
    if (tag === "if-version" && entry.version !== val) refuse("conflict");
    bucket.delete(key);
  }

  config(name) {
    this.enter();
    nameWithin(name);
    const known = this.script.config ?? {};
    return Object.hasOwn(known, name) ? known[name] : denied(`config = ["${name}"]`);
  }

  secretPlaceholder(name) {
    this.enter();
    nameWithin(name);
    if (!Object.hasOwn(this.script.secrets ?? {}, name) && !this.script.placeholders?.includes(name)) denied(`secrets = ["${name}@HOST"]`);
    return `stem-secret-${name}`;
  }

  revealSecret(name) {
    this.enter();
    nameWithin(name);
    const known = this.script.secrets ?? {};
    return Object.hasOwn(known, name) ? encodeUtf8(known[name]) : denied(`secrets = [{ name = "${name}", reveal = true }]`);
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
    this.children = binary ? host.children : host.children.filter(({ release }) => release === "now");
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
    for (const [key, { value, until }] of this.#host.buckets.get(name) ?? []) {
      if (this.elapsedMs < until) values[key] = new Binary("", value).json();
    }
    return values;
  }
}
