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

export function decode(bytes, fatal) {
  const units = [];
  let text = "";
  let at = 0;
  const broken = () => {
    if (fatal) throw new TypeError(`not UTF-8 at byte ${at}`);
    units.push(0xfffd);
  };
  while (at < bytes.length) {
    if (units.length >= CHUNK) {
      text += String.fromCharCode.apply(null, units);
      units.length = 0;
    }
    const first = bytes[at];
    if (first < 0x80) {
      units.push(first);
      at++;
      continue;
    }
    const more = first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : 0;
    let code = first & (0x3f >> more);
    let taken = 1;
    while (taken <= more && at + taken < bytes.length && (bytes[at + taken] & 0xc0) === 0x80) {
      code = (code << 6) | (bytes[at + taken] & 0x3f);
      taken++;
    }
    const least = [0, 0x80, 0x800, 0x10000][more];
    const whole = more > 0 && taken === more + 1;
    if (!whole || code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      broken();
      at++;
      continue;
    }
    if (code < 0x10000) {
      units.push(code);
    } else {
      units.push(0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
    }
    at += taken;
  }
  return text + String.fromCharCode.apply(null, units);
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
