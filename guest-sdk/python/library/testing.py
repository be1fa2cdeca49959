"""Attempts without a worker: a host that keeps the contract's bounds, for tests.

Its clock is its own: a sleep takes no time, and only what the test says does.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._binary import Binary
from ._context import Context, Duration, Entry, cut, millis
from ._errors import Fatal, HostError, TaskError
from ._host import Condition, Level, Request, StopNotice, TaskInfo
from ._task import Task

_RESULT_BYTES = 1 << 20
_CHECKPOINT_BYTES = 256 << 10
_MESSAGE_BYTES = 1024
_DATA_BYTES = 16 << 10
_LINE_BYTES = 4096
_FIELDS = 32
_VALUE_BYTES = 64 << 10
_LEVELS = ("trace", "debug", "info", "warn", "error")

INFO = TaskInfo(
    task_id="test-1",
    task_name="test",
    queue="default",
    attempt=1,
    max_attempts=None,
    enqueued_at=datetime.fromtimestamp(0, timezone.utc),
    parent_id=None,
    root_id="test-1",
    idempotency_key="test-1",
    trace_parent=None,
)


@dataclass(frozen=True)
class Progress:
    """An update; a worker would merge those in quick succession."""

    fraction: Optional[float]
    message: Optional[str]
    data: Optional[Binary]


@dataclass(frozen=True)
class LogLine:
    """A log line as the host keeps it."""

    level: Level
    message: str
    fields: Dict[str, str]


@dataclass(frozen=True)
class Enqueued:
    """A child that the task has enqueued."""

    request: Request
    on_success: bool


@dataclass
class Attempt:
    """What one attempt did."""

    binary: Optional[Binary] = None
    failure: Optional[TaskError] = None
    terminated: bool = False
    """It was ended by force."""
    progress: List[Progress] = field(default_factory=list)
    log: List[LogLine] = field(default_factory=list)
    children: List[Enqueued] = field(default_factory=list)
    checkpoint_bytes: Optional[bytes] = None
    buckets: Dict[str, Dict[str, Entry]] = field(default_factory=dict)
    """Each value as bytes."""
    beats: int = 0
    elapsed: timedelta = timedelta()

    @property
    def result(self) -> Any:
        """The result, read as JSON. Raises the failure if there is one."""
        if self.failure is not None:
            raise self.failure
        if self.binary is None:
            raise AssertionError("the attempt was ended by force: it has no result")
        return self.binary.json()

    @property
    def checkpoint(self) -> Any:
        """The checkpoint as it stands, read as JSON; None when there is none."""
        return None if self.checkpoint_bytes is None else Binary("", self.checkpoint_bytes).json()


class _Ended(BaseException):
    """Carried by the unwinding that stands for an end by force."""


@dataclass(frozen=True)
class Stop:
    """A stop notice that is pending once so many heartbeats and progress updates are done; 0 is from the start."""

    notice: StopNotice
    after_beats: int = 0


def _saved(state: Any) -> bytes:
    return state if isinstance(state, bytes) else Binary.of_json(state).data


def _within(size: int, bound: int) -> None:
    if size > bound:
        raise HostError("too-large", bound)


@dataclass(frozen=True)
class _Script:
    info: TaskInfo
    stop: Optional[Stop]
    terminate_after_beats: Optional[int]
    soft: Optional[int]
    hard: Optional[int]
    beat_takes: int
    max_lease: int
    unavailable: bool
    log_level: Level
    config: Mapping[str, str]
    secrets: Mapping[str, str]


class _TestHost:
    def __init__(self, script: _Script, attempt: Attempt) -> None:
        self.script = script
        self.attempt = attempt
        self.elapsed = 0
        self.versions = sum(len(bucket) for bucket in attempt.buckets.values())

    def enter(self) -> None:
        """Every call of the host begins here, as in a worker."""
        beats, hard = self.script.terminate_after_beats, self.script.hard
        if (beats is not None and self.attempt.beats >= beats) or (hard is not None and self.elapsed >= hard):
            self.attempt.terminated = True
            raise _Ended

    def beat(self) -> Optional[StopNotice]:
        pending = self.pending()
        self.attempt.beats += 1
        self.elapsed += self.script.beat_takes
        return pending

    def pending(self) -> Optional[StopNotice]:
        stop, soft, hard = self.script.stop, self.script.soft, self.script.hard
        if stop is not None and self.attempt.beats >= stop.after_beats:
            return stop.notice
        if soft is not None and self.elapsed >= soft:
            grace = None if hard is None else timedelta(milliseconds=max(hard - self.elapsed, 0))
            return StopNotice("soft-time-limit", grace=grace)
        return None

    def service(self) -> None:
        if self.script.unavailable:
            raise HostError("unavailable", "the test host was told to be")

    def info(self) -> TaskInfo:
        self.enter()
        return self.script.info

    def heartbeat(self) -> Optional[StopNotice]:
        self.enter()
        return self.beat()

    def progress(self, fraction: Optional[float], message: Optional[str], data: Optional[Binary]) -> Optional[StopNotice]:
        self.enter()
        _within(len((message or "").encode()), _MESSAGE_BYTES)
        _within(0 if data is None else len(data.data), _DATA_BYTES)
        self.attempt.progress.append(Progress(fraction, message, data))
        return self.beat()

    def stop_requested(self) -> Optional[StopNotice]:
        self.enter()
        return self.pending()

    def time_left(self) -> Tuple[Optional[int], Optional[int]]:
        self.enter()
        left = [None if at is None else max(at - self.elapsed, 0) for at in (self.script.soft, self.script.hard)]
        return left[0], left[1]

    def extend_lease(self, by: int) -> int:
        self.enter()
        self.service()
        return min(by, self.script.max_lease)

    def sleep(self, duration: int) -> None:
        self.enter()
        if self.pending() is not None:
            raise HostError("stopping")
        limits = [at for at in (self.script.soft, self.script.hard) if at is not None and at > self.elapsed]
        self.elapsed = min([self.elapsed + duration, *limits])
        self.enter()
        if self.pending() is not None:
            raise HostError("stopping")

    def log(self, level: Level, message: str, fields: List[Tuple[str, str]]) -> None:
        if not self.log_enabled(level):
            return
        room = _LINE_BYTES

        def keep(text: str) -> str:
            nonlocal room
            kept = cut(text, room)
            room -= len(kept.encode())
            return kept

        message = keep(message)
        self.attempt.log.append(LogLine(level, message, {keep(name): keep(value) for name, value in fields[:_FIELDS]}))

    def log_enabled(self, level: Level) -> bool:
        self.enter()
        return _LEVELS.index(level) >= _LEVELS.index(self.script.log_level)

    def load_checkpoint(self) -> Optional[bytes]:
        self.enter()
        self.service()
        return self.attempt.checkpoint_bytes

    def save_checkpoint(self, state: bytes) -> None:
        self.enter()
        _within(len(state), _CHECKPOINT_BYTES)
        self.service()
        self.attempt.checkpoint_bytes = state

    def enqueue(self, requests: List[Request], on_success: bool) -> List[str]:
        self.enter()
        self.service()
        first = len(self.attempt.children) + 1
        self.attempt.children += [Enqueued(request, on_success) for request in requests]
        return [f"child-{number}" for number in range(first, first + len(requests))]

    def bucket(self, name: str) -> Dict[str, Entry]:
        if name not in self.attempt.buckets:
            raise HostError("denied", f'kv = ["{name}:rw"]')
        self.service()
        return self.attempt.buckets[name]

    @staticmethod
    def held(entry: Optional[Entry], when: Condition) -> None:
        version = None if entry is None else entry.version
        if (when.if_absent and entry is not None) or when.if_version not in (None, version):
            raise HostError("conflict")

    def read_bucket(self, bucket: str, key: str) -> Optional[Tuple[bytes, int]]:
        self.enter()
        entry = self.bucket(bucket).get(key)
        return None if entry is None else (entry.value, entry.version)

    def write_bucket(self, bucket: str, key: str, value: bytes, when: Condition, ttl: Optional[int]) -> int:
        self.enter()
        _within(len(value), _VALUE_BYTES)
        values = self.bucket(bucket)
        self.held(values.get(key), when)
        self.versions += 1
        values[key] = Entry(value, self.versions)
        return self.versions

    def remove_from_bucket(self, bucket: str, key: str, when: Condition) -> None:
        self.enter()
        values = self.bucket(bucket)
        if key not in values:
            raise HostError("not-found")
        self.held(values[key], when)
        del values[key]

    def config(self, name: str) -> Optional[str]:
        self.enter()
        if name not in self.script.config:
            raise HostError("denied", f'config = ["{name}"]')
        return self.script.config[name]

    def secret_placeholder(self, name: str) -> str:
        self.reveal_secret(name)
        return f"placeholder-of-{name}"

    def reveal_secret(self, name: str) -> bytes:
        self.enter()
        if name not in self.script.secrets:
            raise HostError("denied", f'secrets = ["{name}"]')
        return self.script.secrets[name].encode()


def attempt(
    task: Task,
    args: Any = None,
    *,
    info: Optional[Mapping[str, Any]] = None,
    checkpoint: Any = None,
    stop: Optional[Stop] = None,
    terminate_after_beats: Optional[int] = None,
    soft: Optional[Duration] = None,
    hard: Optional[Duration] = None,
    beat_takes: Duration = 0,
    max_lease: Duration = 3600,
    unavailable: bool = False,
    log_level: Level = "trace",
    config: Optional[Mapping[str, str]] = None,
    secrets: Optional[Mapping[str, str]] = None,
    buckets: Optional[Mapping[str, Mapping[str, Any]]] = None,
) -> Attempt:
    """Runs one attempt of the task.

    ``args``: JSON or a Binary; ``{}`` when None. ``checkpoint``: what an earlier attempt saved, JSON or bytes. ``beat_takes``: so much
    time passes in each heartbeat and progress update. ``config``, ``secrets``, ``buckets``: what is granted, with what is in it;
    all else is denied.
    """
    script = _Script(
        info=replace(INFO, **(info or {})),
        stop=stop,
        terminate_after_beats=terminate_after_beats,
        soft=None if soft is None else millis(soft),
        hard=None if hard is None else millis(hard),
        beat_takes=millis(beat_takes),
        max_lease=millis(max_lease),
        unavailable=unavailable,
        log_level=log_level,
        config=config or {},
        secrets=secrets or {},
    )
    ran = Attempt(checkpoint_bytes=None if checkpoint is None else _saved(checkpoint))
    version = 0
    for name, values in (buckets or {}).items():
        ran.buckets[name] = {}
        for key, value in values.items():
            version += 1
            ran.buckets[name][key] = Entry(_saved(value), version)
    host = _TestHost(script, ran)
    payload = args if isinstance(args, Binary) else Binary.of_json({} if args is None else args)
    try:
        ran.binary = task.perform(Context(host), payload)
        if len(ran.binary.data) > _RESULT_BYTES:
            size = len(ran.binary.data)
            ran.binary = None
            raise Fatal("result-too-large", f"{size} bytes, over the bound of {_RESULT_BYTES}")
    except _Ended:
        pass
    except TaskError as failure:
        ran.failure = failure
    ran.elapsed = timedelta(milliseconds=host.elapsed)
    if ran.terminated:
        ran.binary = ran.failure = None
    return ran
