// Attempts without a worker, for tests in Node.js.

import type { Binary, Json, Level, Millis, Task, TaskError, TaskInfo } from "./index.js";

/** What the test asks of the host. Its clock is its own: nothing waits. */
export interface Script {
  /** The arguments; `{}` when absent. */
  input?: Json | Binary;
  info?: Partial<TaskInfo>;
  /** What an earlier attempt saved. */
  checkpoint?: Json | Uint8Array;
  /** A stop notice that is pending once so many heartbeats and progress updates are done; 0 is from the start. */
  stop?: { code: string; message?: string; graceMs?: Millis; afterBeats?: number };
  /** The attempt ends by force at the first call after so many heartbeats and progress updates. */
  terminateAfterBeats?: number;
  softMs?: Millis;
  hardMs?: Millis;
  /** So much time passes in each heartbeat and progress update. */
  beatTakesMs?: Millis;
  maxLeaseMs?: Millis;
  /** Every call that needs a service is refused as `unavailable`. */
  unavailable?: boolean;
  logLevel?: Level;
  /** Names of tasks that may be enqueued, or their beginnings and `*`. Like everything below: what is not granted here is denied. */
  children?: string[];
  /** Granted settings; null where the worker has no value. */
  config?: Record<string, string | null>;
  /** Secrets that are granted to be revealed, and by their placeholder. */
  secrets?: Record<string, string>;
  /** Secrets that are granted by their placeholder alone. */
  placeholders?: string[];
  /** Granted buckets, with what is in them: for reading and writing. */
  buckets?: Record<string, Record<string, Json | Uint8Array>>;
  /** Those of them that are for reading only. */
  readOnlyBuckets?: string[];
}

/** A child as the worker takes it. */
export interface Enqueued {
  readonly id: string;
  readonly taskName: string;
  readonly queue: string | null;
  readonly input: Binary;
  readonly delayMs: Millis | null;
  readonly dedupKey: string | null;
  readonly headers: [name: string, value: string][];
  readonly release: "now" | "on-success";
}

/** What one attempt did. */
export interface Attempt {
  /** The result, read as JSON. Throws the failure if there is one. */
  readonly result: any;
  readonly binary?: Binary;
  readonly failure?: TaskError;
  /** It was ended by force. */
  readonly terminated: boolean;
  readonly progress: { fraction: number | null; message: string | null; data: Binary | null }[];
  readonly log: { level: Level; message: string; fields: Record<string, string> }[];
  /** One for each dedup key. Those that go with its success are here if it succeeded. */
  readonly children: Enqueued[];
  /** The checkpoint as it stands, read as JSON. */
  readonly checkpoint: any;
  readonly checkpointBytes?: Uint8Array;
  readonly beats: number;
  readonly elapsedMs: Millis;
  /** What is in a bucket, read as JSON. */
  bucket(name: string): Record<string, any>;
}

/** Runs one attempt of the task. */
export function attempt(task: Task<any, any>, script?: Script): Promise<Attempt>;
