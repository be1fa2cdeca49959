// What stands between the worker's functions and the library, in Node.js: the modules `stem:task/…` are stand-ins that keep what they are told.

import assert from "node:assert/strict";
import { register } from "node:module";
import { test } from "node:test";

const told = (globalThis.told = { log: [], info: { taskId: "task-1", attempt: 1, enqueuedAt: 0, headers: [] } });
const STAND_IN = `
  export const info = () => told.info;
  export const write = (...line) => told.log.push(line);
  export const [heartbeat, progress, stopRequested, timeLeft, extendLease, sleep, isEnabled, load, save, enqueue, get, put, remove, placeholder, reveal] =
    Array(15).fill((...given) => { told.given = given; return told.answer; });
`;
const HOOKS = `export function resolve(name, context, next) {
  return name.startsWith("stem:") ? { url: "data:text/javascript,${encodeURIComponent(STAND_IN)}", shortCircuit: true } : next(name, context);
}`;
register(`data:text/javascript,${encodeURIComponent(HOOKS)}`);

const before = Math.random;
// What tells the default engine from the other.
globalThis.__cqjs = {};
await import("../library/globals.js");
const kept = Math.random;
const { handlerOf } = await import("../library/worker.js");
const { Binary, Fatal, Retryable, TaskError, defineTask } = await import("../library/index.js");

/** What the component would answer, or the failure that it would throw. */
function run(body) {
  try {
    return handlerOf(defineTask(body)).run({ mediaType: "application/json", bytes: new TextEncoder().encode("{}") });
  } catch (thrown) {
    return thrown;
  }
}

const throwing = (thrown) => run(() => { throw thrown; });

test("a failure goes over as what it is, however it describes itself", () => {
  const failure = (more) => ({ code: "c", message: "m", detail: null, ...more });
  assert.deepEqual(throwing(new Fatal("c", "m", { detail: 1n })), { tag: "fatal", val: failure() });
  assert.deepEqual(throwing(new Fatal("c", "half \ud83d")), { tag: "fatal", val: failure({ message: "half \ufffd" }) });
  assert.deepEqual(throwing(new TaskError("odd", "c", "m")), { tag: "retryable", val: { cause: failure(), notBefore: null } });
  for (const [afterMs, notBefore] of [[1.2, 2], [-5, 0], [NaN, 0], ["30", 30], [Infinity, Number.MAX_SAFE_INTEGER]]) {
    assert.deepEqual(throwing(new Retryable("c", "m", { afterMs })), { tag: "retryable", val: { cause: failure(), notBefore } });
  }
  const detail = new Binary("image/png", [1]);
  assert.deepEqual(throwing(new Fatal("c", "m", { detail })).val.detail, { mediaType: "image/png", bytes: detail.bytes });
});

test("only the engine's own words are out of memory", () => {
  assert.equal(throwing(new Error("out of memory")).val.cause.message, "out of memory");
  const engines = Object.assign(new Error("out of memory"), { name: "InternalError" });
  assert.equal(throwing(engines), engines);
});

test("text and numbers go over as the worker takes them", () => {
  run((_, ctx) => ctx.log.info("half \ud83d", { "\ud83d": "\ud83d" }));
  assert.deepEqual(told.log.pop(), ["info", "half \ufffd", [["\ufffd", "\ufffd"]]]);
  told.answer = [];
  run((_, ctx) => ctx.children.enqueue({ taskName: "a", dedupKey: 7, delayMs: Infinity, headers: { n: 1 } }));
  const [[child], release] = told.given;
  assert.deepEqual([child.dedupKey, child.queue, child.delay, child.headers, release], ["7", null, Number.MAX_SAFE_INTEGER, [["n", "1"]], "now"]);
  told.answer = undefined;
  run((_, ctx) => ctx.progress(0.5, "half \ud83d"));
  assert.deepEqual(told.given, [{ fraction: 0.5, message: "half \ufffd", data: null }]);
});

test("no two attempts draw the same numbers, also by what a library has kept of the generator", () => {
  assert.notEqual(kept, before);
  const draw = (taskId, attempt) => {
    told.info = { ...told.info, taskId, attempt };
    return JSON.parse(new TextDecoder().decode(run(() => [Math.random(), kept(), Math.random()]).bytes));
  };
  const drawn = new Set();
  for (let attempt = 1; attempt <= 1000; attempt++) draw("task-1", attempt).forEach((number) => drawn.add(number));
  assert.equal(drawn.size, 3000);
  for (const number of drawn) assert.ok(number >= 0 && number < 1);
});
