// What authors of tasks use. A task is a function:
//
//     import { defineTask } from "stem-guest";
//
//     export default defineTask<{ rows: string[] }, { total: number }>((input, ctx) => { … });
//
// Calls of the context wait by themselves; on QuickJS, the default engine, a task is no async function. Once an attempt is to end by force
// (terminate, hard limit, lost lease) no call returns and no further code runs, `finally` included.

/** Anything that JSON can hold. `undefined` as a result counts as `null`. */
export type Json = unknown;

/** A span of time in milliseconds; fractions are rounded up. */
export type Millis = number;

/** Bytes and their media type: arguments, result, progress data or detail that is not JSON. */
export class Binary {
  constructor(mediaType: string, bytes: ArrayBufferView | ArrayBuffer | number[]);
  /** Text as UTF-8; `text/plain; charset=utf-8` unless another type is given. */
  static text(text: string, mediaType?: string): Binary;
  /** A JSON document. Throws a TypeError for what JSON cannot hold. */
  static json(value: Json): Binary;
  /** At most 255 bytes. */
  readonly mediaType: string;
  /** At most 1 MiB as arguments or result. */
  readonly bytes: Uint8Array;
  /** The bytes as UTF-8. Throws a TypeError if they are not. */
  text(): string;
  /** The bytes as JSON, whatever the media type. Throws if they are not, or nested deeper than 256. */
  json(): any;
  /** Whether the media type says JSON. */
  isJson(): boolean;
}

export interface FailureOptions {
  /** Kept with the task: JSON, or bytes; at most 16 KiB. Left out if it is neither, or more. */
  detail?: Json | Binary;
  /** What caused it; its stack goes into the task's log. */
  cause?: unknown;
}

/** How an attempt ends without a result. Throw one of the three kinds. Any other thrown error is retryable, with its name as the code. */
export class TaskError extends Error {
  readonly kind: "retryable" | "fatal" | "cancelled";
  readonly code: string;
  readonly detail?: Json | Binary;
  readonly afterMs?: Millis;
}

/** A failure that another attempt may not meet. The code is a short word for machines (cut at 64 bytes), the message a sentence for people (at 4,096). */
export class Retryable extends TaskError {
  /** `afterMs`: the earliest time from now at which another attempt makes sense, at most 24 hours. Lengthens the policy's delay, never shortens it. */
  constructor(code: string, message: string, options?: FailureOptions & { afterMs?: Millis });
}

/** A failure that every attempt would meet. */
export class Fatal extends TaskError {
  constructor(code: string, message: string, options?: FailureOptions);
}

/** The task gave up because it was asked to. Counts as fatal when no stop notice was pending. */
export class Cancelled extends TaskError {
  constructor(code: string, message: string, options?: FailureOptions);
}

/**
 * The worker refused a call; the attempt goes on if this is caught. The code is `denied`, `invalid`, `too-large`, `not-found`, `conflict`, `quota`,
 * `unavailable`, `stopping`, or a word of a later version. Not caught, it fails the attempt: retryable for the last three, else fatal.
 */
export class HostError extends TaskError {
  /** In bytes, for `too-large`. */
  readonly bound?: number;
}

/** The worker asks the task to finish early. Until the grace time is over everything still works, and a result still counts. */
export interface StopNotice {
  /** `revoked`, `soft-time-limit`, `worker-drain`, `worker-stop`, or a word of a later version. */
  readonly code: string;
  /** The reason for people; may be empty. */
  readonly message: string;
  /** Until the worker ends the attempt by force; null when it does not mean to. */
  readonly graceMs: Millis | null;
}

/** Facts about the attempt; the same throughout. */
export interface TaskInfo {
  readonly taskId: string;
  readonly taskName: string;
  readonly queue: string;
  /** 1 for the first. */
  readonly attempt: number;
  /** Null when unbounded. */
  readonly maxAttempts: number | null;
  readonly enqueuedAt: Date;
  readonly parentId: string | null;
  readonly rootId: string;
  /** The same in every attempt of this task and in no other. Give it to outside services, so that a repeated effect takes place once. */
  readonly idempotencyKey: string;
  readonly traceParent: string | null;
  readonly headers: ReadonlyArray<readonly [name: string, value: string]>;
}

export type Level = "trace" | "debug" | "info" | "warn" | "error";
export type Fields = Record<string, unknown>;

/** At most 4,096 bytes a line with its fields, 32 fields, 100 lines a second after a burst of 500; what is beyond is cut or dropped. */
export interface Log {
  trace(message: string, fields?: Fields): void;
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
  write(level: Level, message: string, fields?: Fields): void;
  /** Whether lines of this level are kept at all. */
  isEnabled(level: Level): boolean;
}

/** The one value that outlives an attempt: the next attempt of the same task finds it. Removed at the task's end. */
export interface Checkpoint {
  /** The value saved last; undefined when none was. Fatal `invalid-checkpoint` if it is no JSON. */
  load<State = any>(): State | undefined;
  /** Replaces the value as a whole; durable once it returns. At most 256 KiB. Fatal `invalid-checkpoint` for what JSON cannot hold. */
  save(state: Json | Binary): void;
  loadBytes(): Uint8Array | undefined;
  saveBytes(state: Uint8Array): void;
}

export interface Child {
  taskName: string;
  /** `{}` when absent. */
  input?: Json | Binary;
  /** This task's queue when absent. */
  queue?: string;
  delayMs?: Millis;
  /** Children of one task with the same key are one child, over all of its attempts. */
  dedupKey?: string;
  headers?: Record<string, string>;
}

/** Needs the grant `children`. */
export interface Children {
  /** Enqueues all or none, at once or in the same step as this attempt's success, and returns their ids in order. At most 100. */
  enqueue(children: Child | Child[], options?: { onSuccess?: boolean }): string[];
}

export interface Entry<Value> {
  readonly value: Value;
  /** Grows with every change of the key. */
  readonly version: number;
}

export interface Condition {
  /** Only if there is no value. */
  ifAbsent?: boolean;
  /** Only if the value has this version. Fatal `invalid` for `undefined`: it is mostly the version of an entry that is not there. */
  ifVersion?: number;
}

/** Small values shared among the tasks that are granted the bucket (`kv`). A condition that does not hold is a HostError `conflict`. */
export interface Bucket {
  get<Value = any>(key: string): Entry<Value> | undefined;
  /** At most 64 KiB as JSON. Returns the new version. */
  put(key: string, value: Json, options?: Condition & { ttlMs?: Millis }): number;
  getBytes(key: string): Entry<Uint8Array> | undefined;
  putBytes(key: string, value: Uint8Array, options?: Condition & { ttlMs?: Millis }): number;
  /** A HostError `not-found` where there is none. */
  remove(key: string, when?: { ifVersion?: number }): void;
}

export interface Secrets {
  /** A text that stands for the secret in the headers of outgoing requests; the worker puts the secret in its place. */
  placeholder(name: string): string;
  /** The secret itself; needs a grant of its own, and the worker's log says so. */
  reveal(name: string): Uint8Array;
}

/** A task's view of its own attempt. */
export class Context {
  private constructor();
  readonly info: TaskInfo;
  readonly log: Log;
  readonly checkpoint: Checkpoint;
  readonly children: Children;
  readonly secrets: Secrets;
  /** The first header of this name, whatever its case. */
  header(name: string): string | undefined;
  /**
   * Says that the attempt makes headway; cheap enough for inner loops. Throws once a stop notice is pending: Cancelled for a revoked task,
   * Retryable when it is the worker or the time limit of this attempt that ends. To tidy up first, use `beat`.
   */
  heartbeat(): void;
  /** Like `heartbeat`, but returns the notice, again at each call once one is pending. */
  beat(): StopNotice | null;
  /**
   * Publishes how far the attempt is, and counts as a heartbeat. The fraction is brought within 0 and 1, undefined when it cannot be told; the message
   * is cut at 1,024 bytes; data is JSON or bytes of at most 16 KiB. The newest wins, at most five a second leave the worker.
   */
  progress(fraction?: number, message?: string, data?: Json | Binary): void;
  /** The pending stop notice, without counting as a heartbeat. */
  stopRequested(): StopNotice | null;
  /** Until the soft limit, where a stop notice comes, and until the hard one, where the attempt ends. Null where there is none. */
  timeLeft(): { softMs: Millis | null; hardMs: Millis | null };
  /** Asks for the lease to last so long from now; returns how long it does. Only before long stretches without any other call. */
  extendLease(ms: Millis): Millis;
  /** Waits without using CPU time. Throws like `heartbeat` as soon as a stop notice is pending. */
  sleep(ms: Millis): void;
  /** The worker's setting of this name; undefined when it has none. Needs the grant `config`. */
  config(name: string): string | undefined;
  /** A bucket of shared values. Needs the grant `kv`. */
  bucket(name: string): Bucket;
}

export interface Task<Input, Output> {
  readonly run: (input: Input, ctx: Context) => Output | Binary | Promise<Output | Binary>;
  readonly input: "json" | "binary";
  readonly parse: (value: any) => Input;
}

export interface TaskOptions<Input> {
  /** Turns the JSON into arguments, or throws: fatal `invalid-arguments` unless it is a TaskError. For instance `schema.parse` of a validator. */
  parse?: (value: any) => Input;
}

/** Makes a task of a function that takes JSON. Export it as default. A promise as result needs the engine SpiderMonkey. */
export function defineTask<Input = any, Output = Json>(
  run: (input: Input, ctx: Context) => Output | Binary | Promise<Output | Binary>,
  options?: TaskOptions<Input> & { input?: "json" },
): Task<Input, Output>;
/** Makes a task of a function that takes bytes of any media type. */
export function defineTask<Output = Json>(
  run: (input: Binary, ctx: Context) => Output | Binary | Promise<Output | Binary>,
  options: { input: "binary" },
): Task<Binary, Output>;
