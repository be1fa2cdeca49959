"""Bytes with a media type, and JSON as one such."""

import dataclasses
import itertools
import json
from typing import Any

JSON_TYPE = "application/json"

_DEEPEST = 256
"""In a module the parser would use up the stack at about 1,000, which ends the attempt as a crash."""
_STEPS = [{b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(bytes([byte]), 0) for byte in range(256)]
_NO_BRACKETS = bytes(byte for byte in range(256) if _STEPS[byte] == 0)


@dataclasses.dataclass(frozen=True)
class Binary:
    """Arguments, result, progress data or detail that is not JSON."""

    media_type: str
    """At most 255 bytes."""
    data: bytes
    """At most 1 MiB as arguments or result."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", octets(self.data))

    @staticmethod
    def of_text(text: str, media_type: str = "text/plain; charset=utf-8") -> "Binary":
        """Text as UTF-8."""
        return Binary(media_type, text.encode())

    @staticmethod
    def of_json(value: Any) -> "Binary":
        """A JSON document; dataclasses count as objects. Raises an exception for what JSON cannot hold: mostly ValueError or TypeError."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        return Binary(JSON_TYPE, well_formed(text).encode())

    def text(self) -> str:
        """The bytes as UTF-8. Raises UnicodeDecodeError if they are not."""
        return self.data.decode()

    def json(self) -> Any:
        """The bytes as JSON, whatever the media type. Raises ValueError if they are not, or nested deeper than 256."""
        text = self.data.decode()
        if _nesting(self.data) > _DEEPEST:
            raise ValueError(f"lists and objects are nested deeper than {_DEEPEST}")
        return json.loads(text, parse_constant=_refuse)

    @property
    def is_json(self) -> bool:
        """Whether the media type says JSON."""
        essence = self.media_type.split(";")[0].strip().lower()
        return essence == JSON_TYPE or essence.endswith("+json")


def octets(given: Any) -> bytes:
    """Bytes of what holds bytes. Of a number ``bytes`` would make as many zeros."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    raise TypeError(f"expected bytes, got {type(given).__name__}")


def well_formed(value: Any) -> str:
    """A value as text that the worker takes: U+FFFD stands for halves of surrogate pairs."""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # By hand: other codecs than UTF-8 are modules, which are not there in an attempt.
        return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _nesting(data: bytes) -> int:
    """How deep lists and objects lie in each other, or more where nobody asks."""
    begun = data.count(b"[") + data.count(b"{")
    if begun <= _DEEPEST:
        return begun
    # Without escapes every quote begins or ends a text, and each second piece is one.
    pieces = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(pieces).translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
