// The library on its own, in Node.js: `node --test guest-sdk/javascript/tests/`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Binary, Cancelled, Fatal, HostError, Retryable, defineTask } from "../library/index.js";
import { attempt } from "../library/testing.js";
import { cut, decode, encode } from "../library/text.js";

const run = (body, script, options) => attempt(defineTask(body, options), script);

test("UTF-8 is that of the platform, where it is whole and where it is not", () => {
  const texts = ["", "plain", "é ß \u07ff\u0800\uffff", "😀".repeat(5000), "\ud800", "a\udc00b", "\ud83dx", "x\ud83d", "\u0000\u007f\u0080"];
  for (const text of texts) assert.deepEqual(encode(text), new TextEncoder().encode(text), JSON.stringify(text).slice(0, 40));
  const whole = [[], [0x41], [0xc3, 0xa9], [0xf0, 0x9f, 0x98, 0x80], [0xef, 0xbb, 0xbf, 0x41], [0xed, 0x9f, 0xbf], [0xf4, 0x8f, 0xbf, 0xbf]];
  const broken = [[0x80], [0xc0, 0x80], [0xc3], [0xe2, 0x82], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xff], [0xe0, 0x80, 0x80], [0xf0, 0x9f, 0x98], [0xe2, 0x82, 0xe2, 0x82, 0xac], [0xf0, 0x9f, 0xff]];
  const platform = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (const bytes of whole) assert.equal(decode(new Uint8Array(bytes), true), platform.decode(new Uint8Array(bytes)));
  for (const bytes of broken) {
    assert.throws(() => platform.decode(new Uint8Array(bytes)));
    assert.throws(() => decode(new Uint8Array(bytes), true), TypeError);
    const around = new Uint8Array([0x61, ...bytes, 0x62]);
    assert.equal(decode(around, false), new TextDecoder().decode(around), String(bytes));
  }
});

test("a text is cut between characters", () => {
  assert.equal(cut("aé😀", 100), "aé😀");
  assert.deepEqual([0, 1, 2, 3, 6, 7].map((bytes) => cut("aé😀", bytes)), ["", "a", "a", "aé", "aé", "aé😀"]);
});

test("what a task throws becomes a failure", async () => {
  const failed = async (body) => (await run(body)).failure;
  const busy = await failed(() => {
    throw new Retryable("busy", "503", { afterMs: 1500, detail: { status: 503 } });
  });
  assert.deepEqual([busy.kind, busy.code, busy.message, busy.afterMs, busy.detail], ["retryable", "busy", "503", 1500, { status: 503 }]);
  const bug = await failed(() => undefined.x);
  assert.deepEqual([bug.kind, bug.code, bug.cause instanceof TypeError], ["retryable", "TypeError", true]);
  assert.equal((await failed(() => Promise.reject(new Fatal("no", "")))).kind, "fatal");
  assert.deepEqual([(await failed(() => { throw "text"; })).code], ["thrown"]);
  assert.equal((await failed(() => 1n)).code, "invalid-result");
});

test("arguments and results are JSON, or bytes", async () => {
  assert.equal((await run(() => undefined)).result, null);
  assert.equal((await run(async ({ a }) => a + 1, { input: { a: 1 } })).result, 2);
  const png = new Binary("image/png", [1, 2, 3]);
  assert.deepEqual((await run((given) => given, { input: png }, { input: "binary" })).binary, png);
  const refused = await run(() => 1, { input: png });
  assert.match(refused.failure.message, /^expected JSON, got image\/png/);
  assert.equal((await run(() => "x".repeat(1 << 20))).failure.code, "result-too-large");
  assert.deepEqual((await run(() => ["\ud83d", "\\ud83d", "\\\ud83d", "😀\u0001"])).result, ["\ufffd", "\\ud83d", "\\\ufffd", "😀\u0001"]);
});

test("arguments that are nested so deep that an engine could not read them are refused", async () => {
  const read = async (text) => (await run(() => "read", { input: new Binary("application/json", encode(text)) })).failure?.code;
  const lists = (depth) => "[".repeat(depth) + "]".repeat(depth);
  assert.deepEqual([await read(lists(256)), await read(lists(257)), await read(lists(500_000))], [undefined, "invalid-arguments", "invalid-arguments"]);
  assert.equal(await read('{"a":'.repeat(300) + "1" + "}".repeat(300)), "invalid-arguments");
  assert.equal(await read(`[${"[],".repeat(1000)}{}]`), undefined);
  assert.equal(await read(`["${"[".repeat(1000)}","\\\\","\\"${"{".repeat(1000)}"]`), undefined);
});

test("a stop notice ends the task at its next checkpoint unless it looks for it", async () => {
  const beats = (_, ctx) => { for (;;) ctx.heartbeat(); };
  const ended = async (code, message) => (await run(beats, { stop: { code, message, afterBeats: 3 } })).failure;
  assert.ok((await ended("revoked")) instanceof Cancelled);
  const drain = await ended("worker-drain", "bye");
  assert.deepEqual([drain instanceof Retryable, drain.code, drain.message], [true, "worker-drain", "bye"]);
  assert.equal((await ended("revoked")).message, "asked to stop");
  const looks = (_, ctx) => { let notice; while (!(notice = ctx.beat())); return [notice.code, ctx.stopRequested().graceMs]; };
  assert.deepEqual((await run(looks, { stop: { code: "revoked", graceMs: 500 } })).result, ["revoked", 500]);
});

test("sleeping takes the host's time, up to its limits", async () => {
  const sleeps = (ms) => (_, ctx) => { ctx.sleep(ms); return ctx.timeLeft(); };
  assert.deepEqual((await run(sleeps(29.5), { softMs: 100, hardMs: 200 })).result, { softMs: 70, hardMs: 170 });
  assert.equal((await run(sleeps(150), { softMs: 100, hardMs: 200 })).failure.code, "soft-time-limit");
  assert.ok((await run(sleeps(Infinity), { hardMs: 200 })).terminated);
  for (const bad of [NaN, -1, "1", undefined]) assert.equal((await run(sleeps(bad))).failure.code, "invalid");
});

test("progress is brought into its bounds", async () => {
  const ran = await run((_, ctx) => {
    ctx.progress(7, "x".repeat(2000), { rows: 1 });
    ctx.progress(NaN);
    ctx.progress(0.5, "", new Binary("image/png", [1]));
    ctx.progress(0.5, "", "x".repeat(20_000));
  });
  assert.deepEqual(ran.progress.map(({ fraction, message }) => [fraction, message?.length]), [[1, 1024], [null, undefined], [0.5, 0]]);
  assert.deepEqual([ran.failure instanceof HostError, ran.failure.code, ran.failure.bound], [true, "too-large", 16384]);
});

test("children, buckets, settings and secrets are there when they are granted", async () => {
  const ran = await run((_, ctx) => {
    const ids = ctx.children.enqueue([{ taskName: "a" }, { taskName: "b", input: [1], delayMs: 0.5, dedupKey: "k", headers: { n: 1 } }]);
    ctx.children.enqueue({ taskName: "c" }, { onSuccess: true });
    const bucket = ctx.bucket("thumbs");
    const { value, version } = bucket.get("count");
    bucket.put("count", value + 1, { ifVersion: version });
    assert.throws(() => bucket.put("count", 0, { ifVersion: version }), { code: "conflict" });
    assert.throws(() => bucket.put("count", 0, { ifAbsent: true }), { code: "conflict" });
    bucket.put("new", "x", { ifAbsent: true, ttlMs: 1000 });
    bucket.remove("old");
    assert.throws(() => bucket.remove("old"), { code: "not-found" });
    assert.throws(() => ctx.bucket("others").get("x"), { code: "denied", kind: "fatal" });
    assert.throws(() => ctx.config("NOTHING"), { code: "denied" });
    return [ids, ctx.config("SIZE"), ctx.secrets.placeholder("KEY") !== "s", new Binary("", ctx.secrets.reveal("KEY")).text(), bucket.get("none") ?? null];
  }, { children: ["*"], buckets: { thumbs: { count: 1, old: 2 } }, config: { SIZE: "9" }, secrets: { KEY: "s" } });
  assert.deepEqual(ran.result, [["child-1", "child-2"], "9", true, "s", null]);
  assert.deepEqual(ran.bucket("thumbs"), { count: 2, new: "x" });
  assert.deepEqual(ran.children.map(({ taskName, delayMs, release }) => [taskName, delayMs, release]), [["a", null, "now"], ["b", 1, "now"], ["c", null, "on-success"]]);
});

test("a failure stays what it is, whatever was thrown and however it describes itself", async () => {
  const failed = async (body, options) => {
    const { failure } = await run(body, {}, options);
    return [failure.kind, failure.code, failure.message];
  };
  const throwing = (thrown) => () => { throw thrown; };
  assert.deepEqual(await failed(throwing(Object.create(null))), ["retryable", "thrown", "what was thrown has no text"]);
  assert.deepEqual(await failed(throwing(null)), ["retryable", "thrown", "null"]);
  assert.deepEqual(await failed(() => ({ get then() { throw new Fatal("then", "m"); } })), ["fatal", "then", "m"]);
  assert.deepEqual(await failed(() => 1, { parse: throwing(null) }), ["fatal", "invalid-arguments", "null"]);
  assert.deepEqual(await failed(() => 1, { parse: throwing("no rows") }), ["fatal", "invalid-arguments", "no rows"]);
  assert.deepEqual(await failed(() => 1, { parse: throwing(new Retryable("later", "m")) }), ["retryable", "later", "m"]);
  const circle = {};
  circle.circle = circle;
  for (const [code, body] of [
    ["invalid-progress", (ctx) => ctx.progress(0, "", circle)],
    ["invalid-checkpoint", (ctx) => ctx.checkpoint.save({ toJSON: throwing(null) })],
    ["invalid-checkpoint", (ctx) => ctx.checkpoint.saveBytes("text")],
    ["invalid-child", (ctx) => ctx.children.enqueue({ name: "a" })],
  ]) {
    const [kind, told] = await failed((_, ctx) => body(ctx));
    assert.deepEqual([kind, told], ["fatal", code]);
  }
});

test("what cannot be a task or bytes is refused where it is made", () => {
  assert.throws(() => defineTask(function* () {}), /generator/);
  assert.throws(() => new Binary("text/plain", "text"), /Binary\.text/);
  assert.throws(() => new Binary("text/plain", 5), TypeError);
  assert.deepEqual([...new Binary("", new Uint16Array([1])).bytes], [1, 0]);
});

test("logging fails no attempt", async () => {
  const circle = {};
  circle.circle = circle;
  const ran = await run((_, ctx) => {
    ctx.log.info("half \ud83d", { circle, big: { n: 1n }, error: new RangeError("far"), inner: { error: new Error("in") }, none: Object.create(null) });
    assert.throws(() => ctx.log.write("warning", ""), TypeError);
  });
  assert.deepEqual([ran.failure, ran.log[0].message], [undefined, "half \ufffd"]);
  const { circle: shown, big, error, inner, none } = ran.log[0].fields;
  assert.deepEqual([shown, big, inner, none], ["[object Object]", '{"n":"1"}', '{"error":"Error: in"}', "{}"]);
  assert.match(error, /^RangeError: far\n/);
});

test("a grant that the test does not give is denied as by a worker", async () => {
  const refused = async (body, script) => {
    const { failure } = await run((_, ctx) => body(ctx), script);
    return failure?.code;
  };
  const child = (more) => (ctx) => ctx.children.enqueue({ taskName: "thumb.make", ...more });
  const kv = (body) => (ctx) => body(ctx.bucket("b"));
  const thumbs = { children: ["thumb.*"] };
  const b = { buckets: { b: { k: 1 } } };
  for (const [code, body, script] of [
    ["denied", child(), {}],
    ["denied", child({ taskName: "other" }), thumbs],
    [undefined, child({ queue: null, dedupKey: null, delayMs: null }), thumbs],
    ["invalid", child({ taskName: "thumb. x" }), thumbs],
    ["invalid", child({ queue: "a b" }), thumbs],
    ["invalid", child({ dedupKey: "-" }), thumbs],
    ["invalid", child({ headers: { "": "x" } }), thumbs],
    ["too-large", child({ input: "x".repeat(1 << 20) }), thumbs],
    ["invalid", (ctx) => ctx.children.enqueue(Array(101).fill({ taskName: "thumb.make" })), thumbs],
    ["quota", (ctx) => { for (;;) ctx.children.enqueue(Array(100).fill({ taskName: "thumb.make" })); }, thumbs],
    ["denied", kv((bucket) => bucket.put("k", 1)), { ...b, readOnlyBuckets: ["b"] }],
    [undefined, kv((bucket) => bucket.get("k")), { ...b, readOnlyBuckets: ["b"] }],
    ["invalid", kv((bucket) => bucket.get("")), b],
    ["invalid", kv((bucket) => bucket.get("a\nb")), b],
    ["too-large", kv((bucket) => bucket.get("k".repeat(513))), b],
    ["too-large", kv((bucket) => bucket.put("k", "x".repeat(1 << 16))), b],
    ["invalid", kv((bucket) => bucket.put("k", 1, { ttlMs: 0 })), b],
    ["invalid", kv((bucket) => bucket.put("k", 1, { ifVersion: bucket.get("other")?.version })), b],
    ["invalid", kv((bucket) => bucket.put("k", 1, { ifVersion: 1, ifAbsent: true })), b],
    ["invalid", kv((bucket) => bucket.remove("k", { ifAbsent: true })), b],
    ["denied", (ctx) => ctx.secrets.reveal("KEY"), { placeholders: ["KEY"] }],
    [undefined, (ctx) => ctx.secrets.placeholder("KEY"), { placeholders: ["KEY"] }],
    [undefined, (ctx) => ctx.config("SIZE"), { config: { SIZE: null } }],
    ["invalid", (ctx) => ctx.config(""), {}],
  ]) {
    assert.equal(await refused(body, script), code, String(body));
  }
});

test("children come to be once for a key, and with the success they wait for", async () => {
  const enqueues = ({ fail }, ctx) => {
    const ids = ["k", "k", "l"].flatMap((dedupKey) => ctx.children.enqueue({ taskName: "a", dedupKey }));
    ctx.children.enqueue({ taskName: "later" }, { onSuccess: true });
    if (fail) throw new Fatal("no", "");
    return ids;
  };
  const names = ({ children }) => children.map(({ id, taskName }) => `${id} ${taskName}`);
  const done = await run(enqueues, { input: { fail: false }, children: ["*"] });
  assert.deepEqual([done.result, names(done)], [["child-1", "child-1", "child-2"], ["child-1 a", "child-2 a", "child-3 later"]]);
  assert.deepEqual(names(await run(enqueues, { input: { fail: true }, children: ["*"] })), ["child-1 a", "child-2 a"]);
});

test("a value is gone after its time", async () => {
  const ran = await run((_, ctx) => {
    const bucket = ctx.bucket("b");
    bucket.put("short", 1, { ttlMs: 100 });
    ctx.sleep(99);
    const before = bucket.get("short").value;
    ctx.sleep(1);
    return [before, bucket.get("short") ?? null];
  }, { buckets: { b: {} } });
  assert.deepEqual([ran.result, ran.bucket("b")], [[1, null], {}]);
});

test("a service that is away is a retryable refusal", async () => {
  const { failure } = await run((_, ctx) => ctx.checkpoint.load(), { unavailable: true });
  assert.deepEqual([failure.kind, failure.code], ["retryable", "unavailable"]);
});
