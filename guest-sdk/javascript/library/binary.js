// Bytes with a media type, and JSON as one such.

import { decodeUtf8, encodeUtf8 } from "./text.js";

export const JSON_TYPE = "application/json";

/** What is escaped; half of a surrogate pair is told apart, since many readers of JSON refuse it. */
const ESCAPES = /\\(?:u(d[89a-f][0-9a-f]{2})|.)/g;

/** In a module the parser would use up the stack at about 3,000, which ends the attempt as a crash. */
const DEEPEST = 256;

function isDeep(text) {
  let begun = 0;
  for (const bracket of "[{") {
    for (let at = text.indexOf(bracket); at >= 0 && begun <= DEEPEST; at = text.indexOf(bracket, at + 1)) begun++;
  }
  if (begun <= DEEPEST) return false;
  // Without escapes every quote begins or ends a text, and each second piece is one.
  const pieces = text.replaceAll("\\\\", "").replaceAll('\\"', "").split('"');
  let depth = 0;
  for (const bracket of pieces.filter((_, at) => at % 2 === 0).join("").replace(/[^[\]{}]+/g, "")) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    if (depth > DEEPEST) return true;
  }
  return false;
}

/** `new Uint8Array` would make no bytes of a text, and as many zeros as a number says. */
function octets(given) {
  if (given instanceof Uint8Array) return given;
  if (ArrayBuffer.isView(given)) return new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  if (given instanceof ArrayBuffer || Array.isArray(given)) return new Uint8Array(given);
  throw new TypeError("bytes are a Uint8Array, an ArrayBuffer or a list of numbers; for text there is Binary.text");
}

export class Binary {
  constructor(mediaType, bytes) {
    this.mediaType = String(mediaType);
    this.bytes = octets(bytes);
  }

  static text(text, mediaType = "text/plain; charset=utf-8") {
    return new Binary(mediaType, encodeUtf8(String(text)));
  }

  static json(value) {
    const text = JSON.stringify(value) ?? "null";
    return new Binary(JSON_TYPE, encodeUtf8(text.includes("\\ud") ? text.replace(ESCAPES, (escape, half) => (half ? "\ufffd" : escape)) : text));
  }

  text() {
    return decodeUtf8(this.bytes);
  }

  json() {
    const text = this.text();
    if (isDeep(text)) throw new SyntaxError(`lists and objects are nested deeper than ${DEEPEST}`);
    return JSON.parse(text);
  }

  isJson() {
    const essence = this.mediaType.split(";")[0].trim().toLowerCase();
    return essence === JSON_TYPE || essence.endsWith("+json");
  }
}
