"""How an attempt ends without a result, and how the worker refuses a call."""

from datetime import timedelta
from typing import Any, Union

from ._binary import well_formed
from ._host import StopNotice

_RETRYABLE_REFUSALS = ("unavailable", "quota", "stopping")
_TASK_STILL_WANTED = ("worker-drain", "worker-stop", "soft-time-limit")
_SENTENCES = {
    "denied": "denied: {}",
    "invalid": "invalid argument: {}",
    "too-large": "over the bound of {} bytes",
    "not-found": "not found",
    "conflict": "the condition of the call did not hold",
    "quota": "quota used up: {}",
    "unavailable": "unavailable: {}",
    "stopping": "cut short by a stop notice",
}


class TaskError(Exception):
    """An attempt's end without a result. Raise one of the three kinds; any other exception is retryable, with its class as the code.

    The code is a short word for machines (cut at 64 bytes), the message a sentence for people (at 4,096). The detail is kept with
    the task: JSON, or a Binary; at most 16 KiB. What is neither, or more, is left out.
    """

    kind = ""

    def __init__(self, code: object, message: object, *, detail: Any = None) -> None:
        # Often the message is the exception that was the cause.
        self.code, self.message = well_formed(code), well_formed(message)
        super().__init__(self.message)
        self.detail = detail
        self.after: Union[float, timedelta, None] = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Retryable(TaskError):
    """A failure that another attempt may not meet.

    ``after``: the earliest time from now at which another attempt makes sense, in seconds, at most 24 hours. It lengthens the
    policy's delay, never shortens it. What is over already, or no time, counts as none.
    """

    kind = "retryable"

    def __init__(
        self, code: object, message: object, *, after: Union[float, timedelta, None] = None, detail: Any = None
    ) -> None:
        super().__init__(code, message, detail=detail)
        self.after = after


class Fatal(TaskError):
    """A failure that every attempt would meet."""

    kind = "fatal"


class Cancelled(TaskError):
    """The task gave up because it was asked to. Counts as fatal when no stop notice was pending."""

    kind = "cancelled"


class HostError(TaskError):
    """The worker refused a call; the attempt goes on if this is caught.

    The code is ``denied``, ``invalid``, ``too-large``, ``not-found``, ``conflict``, ``quota``, ``unavailable``, ``stopping``, or a
    word of a later version. Not caught, it fails the attempt: retryable for ``quota``, ``unavailable`` and ``stopping``, else fatal.
    """

    def __init__(self, code: str, about: Union[str, int] = "") -> None:
        super().__init__(code, _SENTENCES.get(code, "{}").format(about))
        self.kind = "retryable" if code in _RETRYABLE_REFUSALS else "fatal"
        self.bound = about if isinstance(about, int) else None


def of_notice(notice: StopNotice) -> TaskError:
    """What giving up because of this notice means."""
    kind = Retryable if notice.code in _TASK_STILL_WANTED else Cancelled
    return kind(notice.code, notice.message or "asked to stop")


class Ended(BaseException):
    """In tests: carried by the unwinding that stands for an end by force."""


def of_exception(error: BaseException) -> TaskError:
    """Whatever a task has raised, as a failure."""
    if isinstance(error, TaskError):
        return error
    failure = Retryable(type(error).__name__, said(error))
    failure.__cause__ = error
    return failure


def said(error: BaseException) -> str:
    """The text of an exception, which need not have one."""
    try:
        return str(error)
    except Exception:
        return "what was raised has no text"
