// UTF-8. QuickJS has no TextEncoder and no TextDecoder; where the engine has them, they are used.

const CHUNK = 4096;

export function encodeUtf8(text) {
  return typeof TextEncoder === "undefined" ? encode(text) : new TextEncoder().encode(text);
}

/** Throws a TypeError for bytes that are not UTF-8. A byte order mark is kept. */
export function decodeUtf8(bytes) {
  if (typeof TextDecoder === "undefined") return decode(bytes, true);
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

export function encode(text) {
  const bytes = new Uint8Array(text.length * 3);
  let at = 0;
  for (let i = 0; i < text.length; i++) {
    let code = text.charCodeAt(i);
    if (code < 0x80) {
      bytes[at++] = code;
      continue;
    }
    if (code >= 0xd800 && code <= 0xdfff) {
      const low = text.charCodeAt(i + 1);
      const pair = code < 0xdc00 && low >= 0xdc00 && low <= 0xdfff;
      code = pair ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : 0xfffd;
      if (pair) i++;
    }
    if (code < 0x800) {
      bytes[at++] = 0xc0 | (code >> 6);
    } else {
      if (code < 0x10000) {
        bytes[at++] = 0xe0 | (code >> 12);
      } else {
        bytes[at++] = 0xf0 | (code >> 18);
        bytes[at++] = 0x80 | ((code >> 12) & 0x3f);
      }
      bytes[at++] = 0x80 | ((code >> 6) & 0x3f);
    }
    bytes[at++] = 0x80 | (code & 0x3f);
  }
  return bytes.slice(0, at);
}

/** What is not UTF-8 becomes U+FFFD, one for as much as could have begun a character, as the Encoding Standard has it. */
export function decode(bytes, fatal) {
  const units = [];
  let text = "";
  let at = 0;
  while (at < bytes.length) {
    if (units.length >= CHUNK) {
      text += String.fromCharCode.apply(null, units);
      units.length = 0;
    }
    const start = at;
    const first = bytes[at++];
    if (first < 0x80) {
      units.push(first);
      continue;
    }
    const more = first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : 0;
    // The second byte's range leaves out what is longer than it need be, surrogates, and what is beyond U+10FFFF.
    let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
    let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
    let code = first & (0x3f >> more);
    let left = more;
    while (left > 0 && bytes[at] >= low && bytes[at] <= high) {
      code = (code << 6) | (bytes[at++] & 0x3f);
      left--;
      low = 0x80;
      high = 0xbf;
    }
    if (more === 0 || left > 0) {
      if (fatal) throw new TypeError(`not UTF-8 at byte ${start}`);
      code = 0xfffd;
    }
    if (code < 0x10000) {
      units.push(code);
    } else {
      units.push(0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
    }
  }
  return text + String.fromCharCode.apply(null, units);
}

/** A value as text that the worker takes: U+FFFD stands for halves of surrogate pairs, as are left when a text is cut within a character. */
export function wellFormed(value) {
  const text = String(value);
  return /[\ud800-\udfff]/u.test(text) ? decode(encode(text), false) : text;
}

/** A value for people to read. Never throws: a log line must not fail an attempt. */
export function show(value) {
  if (typeof value === "string") return value;
  try {
    if (value instanceof Error) return value.stack ? `${value}\n${value.stack}` : String(value);
    if (typeof value !== "object" || value === null) return String(value);
    return JSON.stringify(value, (_, inner) => (inner instanceof Error || typeof inner === "bigint" ? String(inner) : inner)) ?? String(value);
  } catch {
    return Object.prototype.toString.call(value);
  }
}

/** The beginning of a text, so much that it has at most so many bytes; cut between characters. */
export function cut(text, bytes) {
  if (text.length * 3 <= bytes) return text;
  const encoded = encodeUtf8(text);
  if (encoded.length <= bytes) return text;
  let end = bytes;
  while (end > 0 && (encoded[end] & 0xc0) === 0x80) end--;
  return decodeUtf8(encoded.subarray(0, end));
}
