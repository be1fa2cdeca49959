// How an attempt ends without a result, and how the worker refuses a call.

export class TaskError extends Error {
  constructor(kind, code, message, options = {}) {
    super(String(message ?? ""), options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.code = String(code);
    this.detail = options.detail;
    this.afterMs = options.afterMs;
  }

  get name() {
    return this.constructor.name;
  }
}

export class Retryable extends TaskError {
  constructor(code, message, options) {
    super("retryable", code, message, options);
  }
}

export class Fatal extends TaskError {
  constructor(code, message, options) {
    super("fatal", code, message, options);
  }
}

export class Cancelled extends TaskError {
  constructor(code, message, options) {
    super("cancelled", code, message, options);
  }
}

const RETRYABLE_REFUSALS = ["unavailable", "quota", "stopping"];

const SENTENCES = {
  denied: (text) => `denied: ${text}`,
  invalid: (text) => `invalid argument: ${text}`,
  "too-large": (bound) => `over the bound of ${bound} bytes`,
  "not-found": () => "not found",
  conflict: () => "the condition of the call did not hold",
  quota: (text) => `quota used up: ${text}`,
  unavailable: (text) => `unavailable: ${text}`,
  stopping: () => "cut short by a stop notice",
};

export class HostError extends TaskError {
  constructor(refusal) {
    const sentence = SENTENCES[refusal.tag] ?? String;
    const kind = RETRYABLE_REFUSALS.includes(refusal.tag) ? "retryable" : "fatal";
    super(kind, refusal.tag, sentence(refusal.val));
    if (refusal.tag === "too-large") this.bound = Number(refusal.val);
  }
}

const TASK_STILL_WANTED = ["worker-drain", "worker-stop", "soft-time-limit"];

/** What giving up because of this notice means. */
export function ofNotice(notice) {
  const message = notice.message === "" ? "asked to stop" : notice.message;
  const Kind = TASK_STILL_WANTED.includes(notice.code) ? Retryable : Cancelled;
  return new Kind(notice.code, message);
}

/** Whatever a task has thrown, as a failure. An ordinary error is retryable; its name is the code. */
export function ofThrown(thrown) {
  if (thrown instanceof TaskError) return thrown;
  if (!(thrown instanceof Error)) return new Retryable("thrown", said(() => thrown), { cause: thrown });
  return new Retryable(said(() => thrown.name || "Error"), said(() => thrown.message), { cause: thrown });
}

/** Anything can be thrown, also what cannot be made a text. */
function said(read) {
  try {
    return String(read());
  } catch {
    return "what was thrown has no text";
  }
}
