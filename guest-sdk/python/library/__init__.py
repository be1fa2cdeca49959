"""Write Stem tasks in Python.

A task is a function that takes its arguments and a context::

    from stem_guest import Context, task

    @task
    def add_up(args, ctx: Context):
        return {"total": sum(args["rows"])}

Calls of the context wait by themselves; a task is no coroutine. Once an attempt is to end by force (terminate, hard limit, lost
lease) no call returns and no further code runs, ``finally`` included.
"""

from ._binary import Binary
from ._context import Bucket, Checkpoint, Child, Children, Context, Duration, Entry, Log, Secrets
from ._errors import Cancelled, Fatal, HostError, Retryable, TaskError
from ._host import StopNotice, TaskInfo
from ._task import Task, task

__all__ = [
    "Binary",
    "Bucket",
    "Cancelled",
    "Checkpoint",
    "Child",
    "Children",
    "Context",
    "Duration",
    "Entry",
    "Fatal",
    "HostError",
    "Log",
    "Retryable",
    "Secrets",
    "StopNotice",
    "Task",
    "TaskError",
    "TaskInfo",
    "task",
]
