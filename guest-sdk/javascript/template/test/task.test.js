import assert from "node:assert/strict";
import { test } from "node:test";
import { attempt } from "stem-guest/testing";
import task from "../src/task.js";

const twenty = Array.from({ length: 20 }, (_, i) => i + 1);

test("numbers are added up, with progress", async () => {
  const ran = await attempt(task, { input: { numbers: twenty, delayMs: 5 } });
  assert.deepEqual(ran.result, { sum: 210, count: 20, resumedAt: 0 });
  const messages = ran.progress.map(({ message }) => message);
  assert.deepEqual(messages, ["number 10 of 20", "number 20 of 20"]);
  assert.equal(ran.elapsedMs, 100);
});

test("what is no number fails the task for good", async () => {
  const { failure } = await attempt(task, { input: { numbers: [1, "two"] } });
  assert.deepEqual([failure?.kind, failure?.code, failure?.message], ["fatal", "bad-number", 'numbers[1] is "two"']);
});

test("arguments of another shape are refused", async () => {
  const { failure } = await attempt(task, { input: { number: 1 } });
  assert.deepEqual([failure?.kind, failure?.code], ["fatal", "invalid-arguments"]);
});

test("a stopped attempt leaves off where it was, and the next goes on there", async () => {
  const first = await attempt(task, { input: { numbers: twenty }, stop: { code: "worker-drain", afterBeats: 12 } });
  assert.deepEqual([first.failure?.kind, first.failure?.code], ["retryable", "worker-drain"]);
  assert.deepEqual(first.checkpoint, { done: 11, sum: 66 });
  const second = await attempt(task, { input: { numbers: twenty }, checkpoint: first.checkpoint });
  assert.deepEqual(second.result, { sum: 210, count: 20, resumedAt: 11 });
  assert.equal(second.log[0]?.message, "going on after number 11");
});

test("an attempt that is ended by force leaves its checkpoint", async () => {
  const ran = await attempt(task, { input: { numbers: twenty }, terminateAfterBeats: 15 });
  assert.ok(ran.terminated);
  assert.deepEqual(ran.checkpoint, { done: 10, sum: 55 });
});
