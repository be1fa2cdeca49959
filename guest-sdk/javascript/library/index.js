// Write Stem tasks in JavaScript: see README.md beside this folder, and index.d.ts for every name with its contract.

export { Binary } from "./binary.js";
export { Context } from "./context.js";
export { Cancelled, Fatal, HostError, Retryable, TaskError } from "./errors.js";
export { defineTask } from "./task.js";
