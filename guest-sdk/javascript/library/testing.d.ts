// Attempts without a worker, for tests in Node.js.

import type { Binary, Child, Json, Level, Millis, Task, TaskError, TaskInfo } from "./index.js";

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
  /** Granted settings and secrets; what is not here is denied. */
  config?: Record<string, string>;
  secrets?: Record<string, string>;
  /** Granted buckets, with what is in them. */
  buckets?: Record<string, Record<string, Json | Uint8Array>>;
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
  readonly children: (Omit<Child, "input"> & { input: Binary; release: "now" | "on-success" })[];
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
