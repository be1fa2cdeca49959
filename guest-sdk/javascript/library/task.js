// From a payload to the author's function and back.

import { Binary } from "./binary.js";
import { Fatal, TaskError, ofThrown } from "./errors.js";

export function defineTask(run, options = {}) {
  if (typeof run !== "function") throw new TypeError("defineTask takes the task's function");
  if (run.constructor.name.endsWith("GeneratorFunction")) throw new TypeError("a task is no generator: nobody would run what it yields");
  const { input = "json", parse = (value) => value } = options;
  if (input !== "json" && input !== "binary") throw new TypeError(`input is ${String(input)}, not "json" or "binary"`);
  return Object.freeze({ run, input, parse });
}

/** One attempt: the result as a Binary, or a promise of it if the task is asynchronous. Throws a TaskError. */
export function perform(task, context, payload) {
  let returned;
  let promised;
  try {
    returned = task.run(arguments_(task, payload), context);
    promised = typeof returned?.then === "function";
  } catch (error) {
    throw ofThrown(error);
  }
  if (!promised) return result(returned);
  return returned.then(result, (error) => {
    throw ofThrown(error);
  });
}

function arguments_(task, payload) {
  if (task.input === "binary") return payload;
  try {
    return task.parse(payload.json());
  } catch (error) {
    if (error instanceof TaskError) throw error;
    const what = payload.isJson() ? "" : `expected JSON, got ${payload.mediaType}: `;
    throw new Fatal("invalid-arguments", what + ofThrown(error).message, { cause: error });
  }
}

function result(returned) {
  if (returned instanceof Binary) return returned;
  try {
    return Binary.json(returned);
  } catch (error) {
    throw new Fatal("invalid-result", ofThrown(error).message, { cause: error });
  }
}
