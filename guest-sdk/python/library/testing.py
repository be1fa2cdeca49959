"""Attempts without a worker: a host that keeps the contract's bounds, for tests.

Its clock is its own: a sleep takes no time, and only what the test says does.
"""

import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Collection, Dict, List, Mapping, NoReturn, Optional, Tuple

from ._binary import Binary
from ._context import Context, Duration, Entry, cut, millis, span
from ._errors import Ended, Fatal, HostError, TaskError
from ._host import LEVELS, Condition, Level, Request, StopNotice, TaskInfo
from ._task import Task

_RESULT_BYTES = 1 << 20
_CHECKPOINT_BYTES = 256 << 10
_MESSAGE_BYTES = 1024
_DATA_BYTES = 16 << 10
_LINE_BYTES = 4096
_FIELDS = 32
_PAYLOAD_BYTES = 1 << 20
_CHILDREN_PER_CALL = 100
_CHILDREN_PER_ATTEMPT = 1000
_HEADERS = 64
_HEADER_BYTES = 4096
_BUCKET_BYTES = 128
_KEY_BYTES = 512
_VALUE_BYTES = 64 << 10
_SETTING_BYTES = 128
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")

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

    id: str
    """As the task was told: ``child-1``, ``child-2`` and so on."""
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
    """One for each dedup key. Those that go with its success are here if it succeeded."""
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


def _denied(grant: str) -> NoReturn:
    raise HostError("denied", f"no grant covers it: put {grant} under [handlers.NAME.grants] in stem.toml")


def _name_within(name: str) -> None:
    """The rules for the name of a setting or a secret."""
    if name == "":
        raise HostError("invalid", "the name is empty")
    _within(len(name.encode()), _SETTING_BYTES)


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
    children: Collection[str]
    config: Mapping[str, Optional[str]]
    secrets: Mapping[str, str]
    placeholders: Collection[str]
    read_only: Collection[str]


class _TestHost:
    def __init__(self, script: _Script, attempt: Attempt) -> None:
        self.script = script
        self.attempt = attempt
        self.elapsed = 0
        self.versions = sum(len(bucket) for bucket in attempt.buckets.values())
        self.asked = 0
        self.ends: Dict[Tuple[str, str], int] = {}

    def enter(self) -> None:
        """Every call of the host begins here, as in a worker."""
        beats, hard = self.script.terminate_after_beats, self.script.hard
        if (beats is not None and self.attempt.beats >= beats) or (hard is not None and self.elapsed >= hard):
            self.attempt.terminated = True
            raise Ended

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
        return LEVELS.index(level) >= LEVELS.index(self.script.log_level)

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
        if len(requests) > _CHILDREN_PER_CALL:
            raise HostError("invalid", f"{len(requests)} tasks in one call; {_CHILDREN_PER_CALL} are allowed")
        for request in requests:
            self.admit(request)
        if self.asked + len(requests) > _CHILDREN_PER_ATTEMPT:
            raise HostError("quota", "tasks enqueued by this attempt")
        self.service()
        self.asked += len(requests)
        return [self.enqueue_one(request, on_success) for request in requests]

    def enqueue_one(self, request: Request, on_success: bool) -> str:
        for other in self.attempt.children:
            if request.dedup_key is not None and other.request.dedup_key == request.dedup_key:
                return other.id
        name = f"child-{len(self.attempt.children) + 1}"
        self.attempt.children.append(Enqueued(name, request, on_success))
        return name

    def admit(self, request: Request) -> None:
        """A child as the worker takes it, and one that is granted."""
        name = request.task_name
        if not _NAME.fullmatch(name):
            raise HostError("invalid", f"task name {name!r}")
        if not any(name.startswith(of[:-1]) if of.endswith("*") else name == of for of in self.script.children):
            _denied(f'children = ["{name}"]')
        for what, given in (("queue name", request.queue), ("dedup-key", request.dedup_key)):
            if given is not None and not _NAME.fullmatch(given):
                raise HostError("invalid", f"{what} {given!r}")
        sizes = [len((name + value).encode()) for name, value in request.headers]
        if len(sizes) > _HEADERS or any(size > _HEADER_BYTES for size in sizes) or any(not name for name, _ in request.headers):
            raise HostError("invalid", "headers")
        _within(len(request.input.data), _PAYLOAD_BYTES)

    def bucket(self, name: str, key: str, change: bool) -> Dict[str, Entry]:
        """A bucket that may be used so, without what in it is over its time."""
        self.enter()
        _within(len(name.encode()), _BUCKET_BYTES)
        _within(len(key.encode()), _KEY_BYTES)
        if not _NAME.fullmatch(name) or ":" in name:
            raise HostError("invalid", f"bucket {name!r}")
        if key == "" or any(unicodedata.category(letter) == "Cc" for letter in key):
            raise HostError("invalid", "a key is not empty and holds no control character")
        if name not in self.attempt.buckets or (change and name in self.script.read_only):
            _denied(f'kv = ["{name}{":rw" if change else ""}"]')
        self.expire()
        return self.attempt.buckets[name]

    def expire(self) -> None:
        for (name, key), end in list(self.ends.items()):
            if self.elapsed >= end:
                self.attempt.buckets[name].pop(key, None)
                del self.ends[name, key]

    def read_bucket(self, bucket: str, key: str) -> Optional[Tuple[bytes, int]]:
        entry = self.bucket(bucket, key, False).get(key)
        self.service()
        return None if entry is None else (entry.value, entry.version)

    def write_bucket(self, bucket: str, key: str, value: bytes, when: Condition, ttl: Optional[int]) -> int:
        values = self.bucket(bucket, key, True)
        _within(len(value), _VALUE_BYTES)
        if ttl == 0:
            raise HostError("invalid", "a value is kept for 1 ms or longer")
        self.service()
        entry = values.get(key)
        version = None if entry is None else entry.version
        if (when.if_absent and entry is not None) or when.if_version not in (None, version):
            raise HostError("conflict")
        self.versions += 1
        values[key] = Entry(value, self.versions)
        self.ends.pop((bucket, key), None)
        if ttl is not None:
            self.ends[bucket, key] = self.elapsed + ttl
        return self.versions

    def remove_from_bucket(self, bucket: str, key: str, when: Condition) -> None:
        values = self.bucket(bucket, key, True)
        self.service()
        if key not in values:
            raise HostError("not-found")
        if when.if_version not in (None, values[key].version):
            raise HostError("conflict")
        del values[key]
        self.ends.pop((bucket, key), None)

    def config(self, name: str) -> Optional[str]:
        self.enter()
        _name_within(name)
        if name not in self.script.config:
            _denied(f'config = ["{name}"]')
        return self.script.config[name]

    def secret_placeholder(self, name: str) -> str:
        self.enter()
        _name_within(name)
        if name not in self.script.secrets and name not in self.script.placeholders:
            _denied(f'secrets = ["{name}@HOST"]')
        return f"stem-secret-{name}"

    def reveal_secret(self, name: str) -> bytes:
        self.enter()
        _name_within(name)
        if name not in self.script.secrets:
            _denied(f'secrets = [{{ name = "{name}", reveal = true }}]')
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
    children: Collection[str] = (),
    config: Optional[Mapping[str, Optional[str]]] = None,
    secrets: Optional[Mapping[str, str]] = None,
    placeholders: Collection[str] = (),
    buckets: Optional[Mapping[str, Mapping[str, Any]]] = None,
    read_only: Collection[str] = (),
) -> Attempt:
    """Runs one attempt of the task.

    ``args``: JSON or a Binary; ``{}`` when None. ``checkpoint``: what an earlier attempt saved, JSON or bytes. ``beat_takes``: so much
    time passes in each heartbeat and progress update.

    What is not granted is denied. ``children``: names of tasks that may be enqueued, or their beginnings and ``*``. ``config``:
    settings, None where the worker has no value. ``secrets``: to be revealed, and by their placeholder; ``placeholders``: names of
    those by their placeholder alone. ``buckets``: with what is in them, for reading and writing; ``read_only``: names of those that
    are for reading only.
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
        children=children,
        config=config or {},
        secrets=secrets or {},
        placeholders=placeholders,
        read_only=read_only,
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
    except Ended:
        pass
    except TaskError as failure:
        ran.failure = failure
    ran.elapsed = span(host.elapsed)
    host.expire()
    if ran.terminated:
        ran.binary = ran.failure = None
    if ran.binary is None:
        ran.children = [child for child in ran.children if not child.on_success]
    return ran
