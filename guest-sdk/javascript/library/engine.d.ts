// What the default engine has besides the language itself, so that a type checker knows what is not there: `"types": ["stem-guest/engine"]`.

declare interface Console {
  trace(...values: unknown[]): void;
  debug(...values: unknown[]): void;
  log(...values: unknown[]): void;
  info(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
}

/** Writes to the task's log. */
declare const console: Console;

declare interface Performance {
  /** Milliseconds since the attempt began. */
  now(): number;
  readonly timeOrigin: number;
}

declare const performance: Performance;

declare class TextEncoder {
  readonly encoding: "utf-8";
  encode(text?: string): Uint8Array;
}

/** UTF-8 only, and whole texts only. */
declare class TextDecoder {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: "utf-8";
  decode(bytes?: ArrayBufferView | ArrayBuffer): string;
}

declare function atob(data: string): string;
declare function btoa(data: string): string;
