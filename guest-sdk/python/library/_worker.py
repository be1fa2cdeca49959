"""A task in a worker: the host's functions through the generated bindings, and the way from the exported function to the author's.

Only the component that ``build`` makes imports this; ``wit_world`` and ``componentize_py_types`` exist there alone.
"""

import random
import traceback
from datetime import datetime, timezone
from types import ModuleType
from typing import Any, Callable, List, Optional, Tuple, TypeVar

from componentize_py_types import Err
from wit_world.imports import checkpoint, children, config, context, kv, lifecycle, log, secrets, types

from ._binary import Binary, well_formed
from ._context import Context, millis, span
from ._errors import HostError, TaskError, of_exception
from ._host import Condition, Level, Request, StopNotice, TaskInfo
from ._task import Task

T = TypeVar("T")

_LEVELS = {
    "trace": log.Level.TRACE,
    "debug": log.Level.DEBUG,
    "info": log.Level.INFO,
    "warn": log.Level.WARN,
    "error": log.Level.ERROR,
}
_REFUSALS = {
    types.HostError_Denied: "denied",
    types.HostError_Invalid: "invalid",
    types.HostError_TooLarge: "too-large",
    types.HostError_NotFound: "not-found",
    types.HostError_Conflict: "conflict",
    types.HostError_Quota: "quota",
    types.HostError_Unavailable: "unavailable",
    types.HostError_Stopping: "stopping",
    types.HostError_Other: "other",
}


def _call(function: Callable[..., T], *arguments: Any) -> T:
    try:
        return function(*arguments)
    except Err as error:
        refusal = error.value
        raise HostError(_REFUSALS[type(refusal)], getattr(refusal, "value", "")) from None


def _notice(given: Optional[types.StopNotice]) -> Optional[StopNotice]:
    if given is None:
        return None
    return StopNotice(given.code, given.message, None if given.grace is None else span(given.grace))


def _wire(binary: Optional[Binary]) -> Any:
    return None if binary is None else types.Payload(well_formed(binary.media_type), binary.data)


def _condition(when: Condition) -> Any:
    if when.if_version is not None:
        return kv.Condition_IfVersion(when.if_version)
    return kv.Condition_IfAbsent() if when.if_absent else kv.Condition_Always()


class Worker:
    """The worker's functions."""

    def info(self) -> TaskInfo:
        info = context.info()
        return TaskInfo(
            task_id=info.task_id,
            task_name=info.task_name,
            queue=info.queue,
            attempt=info.attempt,
            max_attempts=info.max_attempts,
            enqueued_at=datetime.fromtimestamp(info.enqueued_at / 1000, timezone.utc),
            parent_id=info.parent_id,
            root_id=info.root_id,
            idempotency_key=info.idempotency_key,
            trace_parent=info.trace_parent,
            headers=tuple(info.headers),
        )

    def heartbeat(self) -> Optional[StopNotice]:
        return _notice(lifecycle.heartbeat())

    def progress(self, fraction: Optional[float], message: Optional[str], data: Optional[Binary]) -> Optional[StopNotice]:
        return _notice(_call(lifecycle.progress, lifecycle.ProgressUpdate(fraction, message, _wire(data))))

    def stop_requested(self) -> Optional[StopNotice]:
        return _notice(lifecycle.stop_requested())

    def time_left(self) -> Tuple[Optional[int], Optional[int]]:
        return lifecycle.time_left()

    def extend_lease(self, by: int) -> int:
        return _call(lifecycle.extend_lease, by)

    def sleep(self, duration: int) -> None:
        _call(lifecycle.sleep, duration)

    def log(self, level: Level, message: str, fields: List[Tuple[str, str]]) -> None:
        log.write(_LEVELS[level], message, fields)

    def log_enabled(self, level: Level) -> bool:
        return log.is_enabled(_LEVELS[level])

    def load_checkpoint(self) -> Optional[bytes]:
        return _call(checkpoint.load)

    def save_checkpoint(self, state: bytes) -> None:
        _call(checkpoint.save, state)

    def enqueue(self, requests: List[Request], on_success: bool) -> List[str]:
        release = children.Release.ON_SUCCESS if on_success else children.Release.NOW
        given = [
            children.Request(
                request.task_name,
                request.queue,
                _wire(request.input),
                request.delay_ms,
                request.dedup_key,
                request.headers,
            )
            for request in requests
        ]
        return _call(children.enqueue, given, release)

    def read_bucket(self, bucket: str, key: str) -> Optional[Tuple[bytes, int]]:
        entry = _call(kv.get, bucket, key)
        return None if entry is None else (entry.value, entry.version)

    def write_bucket(self, bucket: str, key: str, value: bytes, when: Condition, ttl: Optional[int]) -> int:
        return _call(kv.put, bucket, key, value, _condition(when), ttl)

    def remove_from_bucket(self, bucket: str, key: str, when: Condition) -> None:
        _call(kv.remove, bucket, key, _condition(when))

    def config(self, name: str) -> Optional[str]:
        return _call(config.get, name)

    def secret_placeholder(self, name: str) -> str:
        return _call(secrets.placeholder, name)

    def reveal_secret(self, name: str) -> bytes:
        return _call(secrets.reveal, name)


def _failed(error: TaskError) -> "Err[Any]":
    cause = error.__cause__
    if cause is not None and not isinstance(cause, TaskError):
        stack = "".join(traceback.format_exception(type(cause), cause, cause.__traceback__))
        log.write(log.Level.ERROR, well_formed(error), [("stack", well_formed(stack))])
    # A failure should not be replaced by another about its description: what cannot be told of it is left out.
    detail = error.detail
    if detail is not None and not isinstance(detail, Binary):
        detail = _or_none(Binary.of_json, detail)
    # An author may have set these after the exception was made.
    failure = types.Failure(well_formed(error.code), well_formed(error.message), _wire(detail))
    if error.kind == "fatal":
        return Err(types.TaskError_Fatal(failure))
    if error.kind == "cancelled":
        return Err(types.TaskError_Cancelled(failure))
    not_before = None if error.after is None else _or_none(millis, error.after)
    return Err(types.TaskError_Retryable(types.RetryableFailure(failure, not_before)))


def _or_none(make: Callable[[Any], T], of: Any) -> Optional[T]:
    try:
        return make(of)
    except MemoryError:
        raise
    except Exception:
        return None


def handler_of(module: ModuleType) -> type:
    """What the component exports as ``handler``: the one task of a module."""
    tasks = [value for value in vars(module).values() if isinstance(value, Task)]
    if len(tasks) != 1:
        raise TypeError(f"{module.__name__} has {len(tasks)} functions with @task; a module serves one")
    (task,) = tasks

    class Handler:
        """One attempt."""

        def run(self, input: types.Payload) -> types.Payload:
            # The state of the generator is kept from the build: without this, every attempt would draw the same numbers.
            random.seed()
            try:
                result = task.perform(Context(Worker()), Binary(input.media_type, input.bytes))
                return types.Payload(well_formed(result.media_type), result.data)
            except (TaskError, KeyboardInterrupt) as error:
                # Elsewhere an interrupt is that of the person who runs the tests.
                raise _failed(of_exception(error)) from None

    return Handler
