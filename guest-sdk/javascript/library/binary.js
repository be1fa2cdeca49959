// Bytes with a media type, and JSON as one such.

import { decodeUtf8, encodeUtf8 } from "./text.js";

export const JSON_TYPE = "application/json";

export class Binary {
  constructor(mediaType, bytes) {
    this.mediaType = String(mediaType);
    this.bytes = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  }

  static text(text, mediaType = "text/plain; charset=utf-8") {
    return new Binary(mediaType, encodeUtf8(String(text)));
  }

  static json(value) {
    const text = JSON.stringify(value);
    return new Binary(JSON_TYPE, encodeUtf8(text === undefined ? "null" : text));
  }

  text() {
    return decodeUtf8(this.bytes);
  }

  json() {
    return JSON.parse(this.text());
  }

  isJson() {
    const essence = this.mediaType.split(";")[0].trim().toLowerCase();
    return essence === JSON_TYPE || essence.endsWith("+json");
  }
}
