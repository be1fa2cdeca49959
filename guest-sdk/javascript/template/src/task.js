import { Fatal, TaskError, defineTask } from "stem-guest";

/** After so many numbers come progress and a checkpoint. */
const BATCH = 10;

/**
 * Adds up numbers, slowly if asked to, and goes on where an earlier attempt ended.
 *
 * @param {{ numbers: unknown[], delayMs: number }} args
 * @param {import("stem-guest").Context} ctx
 */
function addUp({ numbers, delayMs }, ctx) {
  const state = ctx.checkpoint.load() ?? { done: 0, sum: 0 };
  const resumedAt = state.done;
  if (resumedAt > 0) ctx.log.info(`going on after number ${resumedAt}`);
  try {
    while (state.done < numbers.length) {
      const number = numbers[state.done];
      if (typeof number !== "number") throw new Fatal("bad-number", `numbers[${state.done}] is ${JSON.stringify(number)}`);
      if (delayMs > 0) ctx.sleep(delayMs);
      ctx.heartbeat();
      state.sum += number;
      state.done++;
      if (state.done % BATCH === 0 || state.done === numbers.length) {
        ctx.checkpoint.save(state);
        ctx.progress(state.done / numbers.length, `number ${state.done} of ${numbers.length}`);
      }
    }
  } catch (error) {
    // A stop notice leaves time for this, and the next attempt then repeats nothing.
    if (error instanceof TaskError && error.kind !== "fatal") ctx.checkpoint.save(state);
    throw error;
  }
  return { sum: state.sum, count: state.done, resumedAt };
}

/** What is thrown here fails the task for good: `invalid-arguments`. */
function parse(value) {
  if (!Array.isArray(value?.numbers)) throw new TypeError('give an object with a list: {"numbers":[1,2,3]}');
  return { numbers: value.numbers, delayMs: Number(value.delayMs ?? 0) };
}

export default defineTask(addUp, { parse });
