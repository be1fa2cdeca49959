"""What a worker, or a test, does for an attempt. Times are whole milliseconds here."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import List, Literal, Optional, Protocol, Tuple

from ._binary import Binary

Level = Literal["trace", "debug", "info", "warn", "error"]
LEVELS = ("trace", "debug", "info", "warn", "error")


@dataclass(frozen=True)
class TaskInfo:
    """Facts about the attempt; the same throughout."""

    task_id: str
    task_name: str
    queue: str
    attempt: int
    """1 for the first."""
    max_attempts: Optional[int]
    """None when unbounded."""
    enqueued_at: datetime
    parent_id: Optional[str]
    root_id: str
    idempotency_key: str
    """The same in every attempt of this task and in no other. Give it to outside services, so that a repeated effect takes place once."""
    trace_parent: Optional[str]
    headers: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class StopNotice:
    """The worker asks the task to finish early. Until the grace time is over everything still works, and a result still counts."""

    code: str
    """``revoked``, ``soft-time-limit``, ``worker-drain``, ``worker-stop``, or a word of a later version."""
    message: str = ""
    """The reason for people; may be empty."""
    grace: Optional[timedelta] = None
    """Until the worker ends the attempt by force; None when it does not mean to."""


@dataclass(frozen=True)
class Request:
    """A child, as the worker takes it."""

    task_name: str
    queue: Optional[str]
    input: Binary
    delay_ms: Optional[int]
    dedup_key: Optional[str]
    headers: List[Tuple[str, str]]


@dataclass(frozen=True)
class Condition:
    """When a value is changed: always, if there is none, or if it has a version."""

    if_absent: bool = False
    if_version: Optional[int] = None


class Host(Protocol):
    """The worker's functions. Refusals are raised as HostError."""

    def info(self) -> TaskInfo: ...
    def heartbeat(self) -> Optional[StopNotice]: ...
    def progress(
        self, fraction: Optional[float], message: Optional[str], data: Optional[Binary]
    ) -> Optional[StopNotice]: ...
    def stop_requested(self) -> Optional[StopNotice]: ...
    def time_left(self) -> Tuple[Optional[int], Optional[int]]: ...
    def extend_lease(self, by: int) -> int: ...
    def sleep(self, duration: int) -> None: ...
    def log(self, level: Level, message: str, fields: List[Tuple[str, str]]) -> None: ...
    def log_enabled(self, level: Level) -> bool: ...
    def load_checkpoint(self) -> Optional[bytes]: ...
    def save_checkpoint(self, state: bytes) -> None: ...
    def enqueue(self, requests: List[Request], on_success: bool) -> List[str]: ...
    def read_bucket(self, bucket: str, key: str) -> Optional[Tuple[bytes, int]]: ...
    def write_bucket(self, bucket: str, key: str, value: bytes, when: Condition, ttl: Optional[int]) -> int: ...
    def remove_from_bucket(self, bucket: str, key: str, when: Condition) -> None: ...
    def config(self, name: str) -> Optional[str]: ...
    def secret_placeholder(self, name: str) -> str: ...
    def reveal_secret(self, name: str) -> bytes: ...
