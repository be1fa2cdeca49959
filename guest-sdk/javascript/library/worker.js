// A task in a worker: the host's functions, and the way from the exported function to the author's. Only the component
// that build.js makes imports this; the modules `stem:task/…` are the worker's.

import * as checkpoint from "stem:task/checkpoint@0.1.0";
import * as children from "stem:task/children@0.1.0";
import * as config from "stem:task/config@0.1.0";
import * as context from "stem:task/context@0.1.0";
import * as kv from "stem:task/kv@0.1.0";
import * as lifecycle from "stem:task/lifecycle@0.1.0";
import * as log from "stem:task/log@0.1.0";
import * as secrets from "stem:task/secrets@0.1.0";
import { Binary } from "./binary.js";
import { Context } from "./context.js";
import { Fatal, HostError, TaskError } from "./errors.js";
import { begin } from "./globals.js";
import { perform } from "./task.js";
import { wellFormed } from "./text.js";

const QUICKJS = typeof globalThis.__cqjs === "object";

/** How this engine takes a `u64`. */
const u64 = QUICKJS ? Number : BigInt;
const optional = (value, read) => (value === undefined || value === null ? null : read(value));
const wire = ({ mediaType, bytes }) => ({ mediaType: wellFormed(mediaType), bytes });

/** Calls the worker; a refusal comes as a HostError. */
function call(work) {
  try {
    return work();
  } catch (error) {
    if (typeof error?.payload?.tag === "string") throw new HostError(error.payload);
    throw error;
  }
}

const condition = ({ tag, val }) => (val === undefined ? { tag } : { tag, val: u64(val) });

const notice = (given) => ({ code: given.code, message: given.message, graceMs: optional(given.grace, Number) });

const HOST = {
  info() {
    const info = context.info();
    return {
      taskId: info.taskId,
      taskName: info.taskName,
      queue: info.queue,
      attempt: info.attempt,
      maxAttempts: info.maxAttempts ?? null,
      enqueuedAt: new Date(Number(info.enqueuedAt)),
      parentId: info.parentId ?? null,
      rootId: info.rootId,
      idempotencyKey: info.idempotencyKey,
      traceParent: info.traceParent ?? null,
      headers: info.headers,
    };
  },
  heartbeat: () => optional(lifecycle.heartbeat(), notice),
  progress: ({ fraction, message, data }) =>
    optional(call(() => lifecycle.progress({ fraction, message, data: optional(data, wire) })), notice),
  stopRequested: () => optional(lifecycle.stopRequested(), notice),
  timeLeft: () => lifecycle.timeLeft().map((left) => optional(left, Number)),
  extendLease: (ms) => Number(call(() => lifecycle.extendLease(u64(ms)))),
  sleep: (ms) => call(() => lifecycle.sleep(u64(ms))),
  log: (level, message, fields) => log.write(level, message, fields),
  logEnabled: (level) => log.isEnabled(level),
  loadCheckpoint: () => call(() => checkpoint.load()) ?? null,
  saveCheckpoint: (bytes) => call(() => checkpoint.save(bytes)),
  enqueue: (requests, release) =>
    call(() =>
      children.enqueue(
        requests.map(({ delayMs, input, ...request }) => ({ ...request, input: wire(input), delay: optional(delayMs, u64) })),
        release,
      ),
    ),
  readBucket: (bucket, key) =>
    optional(call(() => kv.get(bucket, key)), ({ value, version }) => ({ value, version: Number(version) })),
  writeBucket: (bucket, key, value, when, ttl) =>
    Number(call(() => kv.put(bucket, key, value, condition(when), optional(ttl, u64)))),
  removeFromBucket: (bucket, key, when) => call(() => kv.remove(bucket, key, condition(when))),
  config: (name) => call(() => config.get(name)),
  secretPlaceholder: (name) => call(() => secrets.placeholder(name)),
  revealSecret: (name) => call(() => secrets.reveal(name)),
};

/** What the component exports as `handler`. */
export function handlerOf(task) {
  if (typeof task?.run !== "function") {
    throw new TypeError("the task's module has no default export made by defineTask");
  }
  if (QUICKJS && task.run.constructor.name === "AsyncFunction") throw new TypeError(ASYNC);
  return {
    run({ mediaType, bytes }) {
      const attempt = new Context(HOST);
      begin(HOST);
      try {
        const returned = perform(task, attempt, new Binary(mediaType, bytes));
        if (typeof returned.then !== "function") return wire(returned);
        if (QUICKJS) throw new Fatal("async-task", ASYNC);
        return returned.then(wire, (error) => {
          throw failed(error);
        });
      } catch (error) {
        throw failed(error);
      }
    },
  };
}

const ASYNC =
  "an async task needs the SpiderMonkey engine (build with --engine spidermonkey); on QuickJS write the task as an " +
  "ordinary function: calls of its context wait by themselves";

/** The failure as the worker takes it. */
function failed(error) {
  if (!(error instanceof TaskError)) return error;
  const { cause, kind, detail, afterMs } = error;
  const [code, message] = [wellFormed(error.code), wellFormed(error.message)];
  // Out of memory is no failure that the task reports, but an end at a limit: thrown on, it ends the attempt as a trap,
  // and the worker says which limit it was.
  if (isOutOfMemory(cause)) return cause;
  if (cause instanceof Error && !(cause instanceof TaskError)) {
    log.write("error", `${code}: ${message}`, [["stack", wellFormed(cause.stack)]]);
  }
  const failure = { code, message, detail: optional(detail, kept) };
  if (kind === "fatal" || kind === "cancelled") return { tag: kind, val: failure };
  return { tag: "retryable", val: { cause: failure, notBefore: optional(afterMs, notBefore) } };
}

/** As each engine says it: an author's own error of these words is none. */
function isOutOfMemory(cause) {
  if (!QUICKJS) return cause === "out of memory";
  return cause instanceof Error && cause.name === "InternalError" && cause.message === "out of memory";
}

/** A failure should not be replaced by another about its description: what JSON cannot hold is left out. */
function kept(detail) {
  try {
    return wire(detail instanceof Binary ? detail : Binary.json(detail));
  } catch {
    return null;
  }
}

const notBefore = (ms) => u64(Math.min(Math.max(Math.ceil(Number(ms)) || 0, 0), Number.MAX_SAFE_INTEGER));
