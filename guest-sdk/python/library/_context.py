"""A task's view of its own attempt, over the functions of a worker or of a test."""

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Iterable, List, Mapping, Optional, Tuple, Union

from ._binary import Binary, octets, well_formed
from ._errors import Fatal, HostError, of_notice, said
from ._host import LEVELS, Condition, Host, Level, Request, StopNotice, TaskInfo

Duration = Union[float, timedelta]
"""A span of time: seconds, or a timedelta. Rounded up to milliseconds."""

_MESSAGE_BYTES = 1024
_MOST_MILLIS = 2**64 - 1


def millis(duration: Duration) -> int:
    """Whole milliseconds, rounded up, so that a wait of half a millisecond is a wait."""
    if isinstance(duration, timedelta):
        micros = duration // timedelta(microseconds=1)
    elif math.isnan(duration):
        raise Fatal("invalid", "a duration is not a number")
    elif math.isinf(duration):
        micros = _MOST_MILLIS * 1000 if duration > 0 else -1
    else:
        micros = round(duration * 1_000_000)
    if micros < 0:
        raise Fatal("invalid", f"a duration is negative: {duration}")
    return min(-(-micros // 1000), _MOST_MILLIS)


def span(ms: int) -> timedelta:
    """The contract's spans may be longer than a timedelta."""
    return timedelta(milliseconds=min(ms, 86_400_000 * 365_000))


def cut(text: str, size: int) -> str:
    """The beginning of a text, so much that it has at most so many bytes."""
    return text.encode()[:size].decode(errors="ignore")


def _stopped(notice: Optional[StopNotice]) -> None:
    if notice is not None:
        raise of_notice(notice)


def _text(value: Optional[object]) -> Optional[str]:
    return None if value is None else well_formed(value)


def _read(code: str, data: bytes) -> Any:
    try:
        return Binary("", data).json()
    except MemoryError:
        raise
    except Exception as error:
        raise Fatal(code, said(error)) from error


def _write(code: str, value: Any) -> Binary:
    if isinstance(value, Binary):
        return value
    try:
        return Binary.of_json(value)
    except MemoryError:
        raise
    except Exception as error:
        raise Fatal(code, said(error)) from error


def _octets(code: str, data: Any) -> bytes:
    try:
        return octets(data)
    except TypeError as error:
        raise Fatal(code, str(error)) from error


class Context:
    """The attempt now running. Call ``heartbeat`` or ``progress`` in every loop that may run for long."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._info: Optional[TaskInfo] = None
        self.log = Log(host)
        self.checkpoint = Checkpoint(host)
        self.children = Children(host)
        self.secrets = Secrets(host)

    @property
    def info(self) -> TaskInfo:
        """Facts about the attempt."""
        if self._info is None:
            self._info = self._host.info()
        return self._info

    def header(self, name: str) -> Optional[str]:
        """The first header of this name, whatever its case."""
        return next((value for key, value in self.info.headers if key.lower() == name.lower()), None)

    def heartbeat(self) -> None:
        """Says that the attempt makes headway; cheap enough for inner loops.

        Raises once a stop notice is pending: Cancelled for a revoked task, Retryable when it is the worker or the time limit of
        this attempt that ends. To tidy up first, use ``beat``.
        """
        _stopped(self.beat())

    def beat(self) -> Optional[StopNotice]:
        """Like ``heartbeat``, but returns the notice, again at each call once one is pending."""
        return self._host.heartbeat()

    def progress(self, fraction: Optional[float] = None, message: Optional[str] = None, data: Any = None) -> None:
        """Publishes how far the attempt is, and counts as a heartbeat.

        The fraction is brought within 0 and 1, None when it cannot be told; the message is cut at 1,024 bytes; data is JSON or a
        Binary of at most 16 KiB. The newest wins, at most five a second leave the worker.
        """
        if fraction is not None:
            fraction = None if math.isnan(fraction) else min(max(float(fraction), 0.0), 1.0)
        message = None if message is None else cut(well_formed(message), _MESSAGE_BYTES)
        kept = None if data is None else _write("invalid-progress", data)
        _stopped(self._host.progress(fraction, message, kept))

    def stop_requested(self) -> Optional[StopNotice]:
        """The pending stop notice, without counting as a heartbeat."""
        return self._host.stop_requested()

    def time_left(self) -> Tuple[Optional[timedelta], Optional[timedelta]]:
        """Until the soft limit, where a stop notice comes, and until the hard one, where the attempt ends. None where there is none."""
        soft, hard = self._host.time_left()
        return None if soft is None else span(soft), None if hard is None else span(hard)

    def extend_lease(self, by: Duration) -> timedelta:
        """Asks for the lease to last so long from now; returns how long it does. Only before long stretches without any other call."""
        return span(self._host.extend_lease(millis(by)))

    def sleep(self, duration: Duration) -> None:
        """Waits without using CPU time. Raises like ``heartbeat`` as soon as a stop notice is pending."""
        try:
            self._host.sleep(millis(duration))
        except HostError as error:
            if error.code == "stopping":
                _stopped(self._host.stop_requested())
            raise

    def config(self, name: str) -> Optional[str]:
        """The worker's setting of this name; None when it has none. Needs the grant ``config``."""
        return self._host.config(well_formed(name))

    def bucket(self, name: str) -> "Bucket":
        """A bucket of shared values. Needs the grant ``kv``."""
        return Bucket(self._host, well_formed(name))


class Checkpoint:
    """The one value that outlives an attempt: the next attempt of the same task finds it. Removed at the task's end."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def load(self, default: Any = None) -> Any:
        """The value saved last, read as JSON. Fatal ``invalid-checkpoint`` if it is none."""
        data = self.load_bytes()
        return default if data is None else _read("invalid-checkpoint", data)

    def save(self, state: Any) -> None:
        """Replaces the value as a whole; durable once it returns. At most 256 KiB."""
        self.save_bytes(_write("invalid-checkpoint", state).data)

    def load_bytes(self) -> Optional[bytes]:
        """The bytes saved last. An empty value is not an absent one."""
        return self._host.load_checkpoint()

    def save_bytes(self, state: bytes) -> None:
        """Saves bytes."""
        self._host.save_checkpoint(_octets("invalid-checkpoint", state))


def _known(level: Level) -> Level:
    if level not in LEVELS:
        raise ValueError(f"a log level is one of {', '.join(LEVELS)}, not {level!r}")
    return level


def _shown(value: object) -> str:
    try:
        return well_formed(value)
    except MemoryError:
        raise
    except Exception:
        return f"a {type(value).__name__} that has no text"


class Log:
    """At most 4,096 bytes a line with its fields, 32 fields, 100 lines a second after a burst of 500; what is beyond is cut or dropped."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # Positional, so that a field may have any name.
    def write(self, level: Level, message: object, /, **fields: object) -> None:
        """Writes one line. Raises ValueError for what is no level, and for nothing else."""
        known = _known(level)
        self._host.log(known, _shown(message), [(well_formed(name), _shown(value)) for name, value in fields.items()])

    def is_enabled(self, level: Level) -> bool:
        """Whether lines of this level are kept at all."""
        return self._host.log_enabled(_known(level))

    def trace(self, message: object, /, **fields: object) -> None:
        self.write("trace", message, **fields)

    def debug(self, message: object, /, **fields: object) -> None:
        self.write("debug", message, **fields)

    def info(self, message: object, /, **fields: object) -> None:
        self.write("info", message, **fields)

    def warn(self, message: object, /, **fields: object) -> None:
        self.write("warn", message, **fields)

    def error(self, message: object, /, **fields: object) -> None:
        self.write("error", message, **fields)


@dataclass(frozen=True)
class Child:
    """A task that this one enqueues."""

    task_name: str
    input: Any = field(default_factory=dict)
    """JSON, or a Binary."""
    queue: Optional[str] = None
    """This task's queue when None."""
    delay: Optional[Duration] = None
    dedup_key: Optional[str] = None
    """Children of one task with the same key are one child, over all of its attempts."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Children:
    """Further tasks. Needs the grant ``children``."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def enqueue(self, children: Union[Child, Iterable[Child]], *, on_success: bool = False) -> List[str]:
        """Enqueues all or none, at once or in the same step as this attempt's success, and returns their ids in order. At most 100."""
        children = [children] if isinstance(children, Child) else list(children)
        requests = [
            Request(
                task_name=well_formed(child.task_name),
                queue=_text(child.queue),
                input=_write("invalid-child", child.input),
                delay_ms=None if child.delay is None else millis(child.delay),
                dedup_key=_text(child.dedup_key),
                headers=[(well_formed(name), well_formed(value)) for name, value in child.headers.items()],
            )
            for child in children
        ]
        return self._host.enqueue(requests, on_success)


@dataclass(frozen=True)
class Entry:
    """A value of a bucket."""

    value: Any
    version: int
    """Grows with every change of the key."""


def _condition(if_absent: bool, if_version: Optional[int]) -> Condition:
    if if_absent and if_version is not None:
        raise Fatal("invalid", "if_absent and if_version cannot both hold")
    if if_version is not None and not (isinstance(if_version, int) and 0 <= if_version < 2**64):
        raise Fatal("invalid", f"if_version is {if_version!r}")
    return Condition(if_absent, if_version)


class Bucket:
    """Small values shared among the tasks that are granted the bucket. A condition that does not hold is a HostError ``conflict``.

    Without a condition a value is written whatever is there: where ``get`` found nothing, give ``if_absent``.
    """

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._name = name

    def get(self, key: str) -> Optional[Entry]:
        """The value, read as JSON; None where there is none."""
        entry = self.get_bytes(key)
        return entry and Entry(_read("invalid-value", entry.value), entry.version)

    def put(
        self,
        key: str,
        value: Any,
        *,
        if_absent: bool = False,
        if_version: Optional[int] = None,
        ttl: Optional[Duration] = None,
    ) -> int:
        """Replaces the value by one of at most 64 KiB as JSON, and returns its version."""
        data = _write("invalid-value", value).data
        return self.put_bytes(key, data, if_absent=if_absent, if_version=if_version, ttl=ttl)

    def get_bytes(self, key: str) -> Optional[Entry]:
        """The value as bytes."""
        found = self._host.read_bucket(self._name, well_formed(key))
        return None if found is None else Entry(*found)

    def put_bytes(
        self,
        key: str,
        value: bytes,
        *,
        if_absent: bool = False,
        if_version: Optional[int] = None,
        ttl: Optional[Duration] = None,
    ) -> int:
        """Replaces the value by bytes, and returns its version."""
        ttl_ms = None if ttl is None else millis(ttl)
        data, when = _octets("invalid-value", value), _condition(if_absent, if_version)
        return self._host.write_bucket(self._name, well_formed(key), data, when, ttl_ms)

    def remove(self, key: str, *, if_version: Optional[int] = None) -> None:
        """Removes the value. A HostError ``not-found`` where there is none."""
        self._host.remove_from_bucket(self._name, well_formed(key), _condition(False, if_version))


class Secrets:
    """Secrets of the worker. Each function needs a grant of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def placeholder(self, name: str) -> str:
        """A text that stands for the secret in the headers of outgoing requests; the worker puts the secret in its place."""
        return self._host.secret_placeholder(well_formed(name))

    def reveal(self, name: str) -> bytes:
        """The secret itself. The worker's log says that it was revealed."""
        return self._host.reveal_secret(well_formed(name))
