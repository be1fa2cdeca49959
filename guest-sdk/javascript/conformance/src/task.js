// The conformance task: guest-sdk/CONFORMANCE.md says what it answers.

import { Binary, Cancelled, Fatal, Retryable, defineTask } from "stem-guest";

const MIB = 1 << 20;
const PAGE = 4096;
/** As libraries keep it. */
const kept = Math.random;
const FAILURES = { retryable: Retryable, fatal: Fatal, cancelled: Cancelled };

/** A key that the operation needs. */
function need(input, key, type) {
  const value = input[key];
  const whole = type !== "number" || (Number.isSafeInteger(value) && value >= 0);
  if (typeof value !== type || !whole) throw new Fatal("invalid-arguments", `${key} is no ${type}`);
  return value;
}

const OPERATIONS = {
  echo(input) {
    const text = need(input, "text", "string");
    const utf8 = Binary.text(text);
    // JSON can spell half of a surrogate pair, which is no text.
    if (utf8.text() !== text) throw new Fatal("invalid-arguments", "text is not Unicode");
    return { text, bytes: utf8.bytes.length };
  },

  info(_, { info }) {
    const { taskName, queue, attempt, idempotencyKey } = info;
    return { taskName, queue, attempt, idempotencyKey };
  },

  fail(input) {
    const kind = need(input, "kind", "string");
    if (!Object.hasOwn(FAILURES, kind)) throw new Fatal("invalid-arguments", `kind is ${kind}`);
    const afterMs = kind === "retryable" && input.afterMs !== undefined ? need(input, "afterMs", "number") : undefined;
    throw new FAILURES[kind](need(input, "code", "string"), need(input, "message", "string"), { afterMs });
  },

  sleep(input, ctx) {
    const ms = need(input, "ms", "number");
    ctx.sleep(ms);
    return { ms };
  },

  progress(input, ctx) {
    const steps = need(input, "steps", "number");
    ctx.heartbeat();
    for (let step = 1; step <= steps; step++) ctx.progress(step / steps, `step ${step} of ${steps}`);
    return { steps };
  },

  beat(_, ctx) {
    ctx.progress(undefined, "beating");
    for (;;) ctx.heartbeat();
  },

  allocate(input) {
    const mib = need(input, "mib", "number");
    const held = [];
    for (let block = 0; block < mib; block++) {
      const bytes = new Uint8Array(MIB);
      for (let at = 0; at < MIB; at += PAGE) bytes[at] = 1;
      held.push(bytes);
    }
    return { mib: held.length };
  },

  spin(input, ctx) {
    if (input.rounds === undefined) {
      ctx.progress(undefined, "spinning");
      for (;;);
    }
    const rounds = need(input, "rounds", "number");
    let x = 1;
    for (let round = 0; round < rounds; round++) x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return { rounds, x };
  },

  checkpoint(input, ctx) {
    const steps = need(input, "steps", "number");
    const stopAt = need(input, "stopAt", "number");
    const from = ctx.checkpoint.load()?.step ?? 0;
    for (let step = from + 1; step <= steps; step++) {
      ctx.checkpoint.save({ step });
      if (from === 0 && step === stopAt) throw new Retryable("interrupted", `stopped at step ${step}`);
    }
    return { from, steps };
  },

  fresh() {
    return { drawn: [Math.random(), kept()], nowMs: Date.now() };
  },
};

export default defineTask(
  (payload, ctx) => {
    if (payload.mediaType === "application/octet-stream") return payload;
    let input;
    try {
      input = payload.json();
    } catch (error) {
      throw new Fatal("invalid-arguments", error.message);
    }
    if (typeof input !== "object" || input === null || Array.isArray(input)) {
      throw new Fatal("invalid-arguments", "the payload is no object");
    }
    const op = need(input, "op", "string");
    if (!Object.hasOwn(OPERATIONS, op)) throw new Fatal("unknown-op", `unknown op ${op}`);
    return OPERATIONS[op](input, ctx);
  },
  { input: "binary" },
);
