"""Bytes with a media type, and JSON as one such."""

import dataclasses
import json
from typing import Any

JSON_TYPE = "application/json"


@dataclasses.dataclass(frozen=True)
class Binary:
    """Arguments, result, progress data or detail that is not JSON."""

    media_type: str
    """At most 255 bytes."""
    data: bytes
    """At most 1 MiB as arguments or result."""

    @staticmethod
    def of_text(text: str, media_type: str = "text/plain; charset=utf-8") -> "Binary":
        """Text as UTF-8."""
        return Binary(media_type, text.encode())

    @staticmethod
    def of_json(value: Any) -> "Binary":
        """A JSON document; dataclasses count as objects. Raises ValueError or TypeError for what JSON cannot hold."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        return Binary(JSON_TYPE, text.encode())

    def text(self) -> str:
        """The bytes as UTF-8. Raises UnicodeDecodeError if they are not."""
        return self.data.decode()

    def json(self) -> Any:
        """The bytes as JSON, whatever the media type. Raises ValueError if they are not."""
        return json.loads(self.data.decode(), parse_constant=_refuse)

    @property
    def is_json(self) -> bool:
        """Whether the media type says JSON."""
        essence = self.media_type.split(";")[0].strip().lower()
        return essence == JSON_TYPE or essence.endswith("+json")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
