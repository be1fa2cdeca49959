"""From a payload to the author's function and back."""

import functools
import inspect
from typing import Any, Callable, Literal, Optional, Union, overload

from ._binary import Binary
from ._context import Context
from ._errors import Ended, Fatal, TaskError, of_exception, said

Function = Callable[[Any, Context], Any]

_ENDS = (MemoryError, KeyboardInterrupt, Ended)
"""No failures that the task reports. Out of memory is an end at a limit, which the worker names."""


class Task:
    """A function that the worker can run. It can be called like the function it was made of."""

    def __init__(self, function: Function, input: Literal["json", "binary"], parse: Optional[Callable[[Any], Any]]) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__name__}: a task is an ordinary function; calls of its context wait by themselves")
        if input not in ("json", "binary"):
            raise ValueError(f'input is {input!r}, not "json" or "binary"')
        functools.update_wrapper(self, function)
        self._function = function
        self._input = input
        self._parse = parse

    def __call__(self, args: Any, ctx: Context) -> Any:
        return self._function(args, ctx)

    def perform(self, ctx: Context, payload: Binary) -> Binary:
        """One attempt. Raises TaskError for a failure."""
        try:
            returned = self._function(self._arguments(payload), ctx)
        except _ENDS:
            raise
        except BaseException as error:
            # Also SystemExit and what else is no Exception: a worker has nobody above the task who would take it.
            failure = of_exception(error)
            raise failure from failure.__cause__
        if isinstance(returned, Binary):
            return returned
        try:
            return Binary.of_json(returned)
        except _ENDS:
            raise
        except Exception as error:
            raise Fatal("invalid-result", said(error)) from error

    def _arguments(self, payload: Binary) -> Any:
        if self._input == "binary":
            return payload
        try:
            args = payload.json()
            return args if self._parse is None else self._parse(args)
        except (*_ENDS, TaskError):
            raise
        except Exception as error:
            what = "" if payload.is_json else f"expected JSON, got {payload.media_type}: "
            raise Fatal("invalid-arguments", what + said(error)) from error


@overload
def task(function: Function) -> Task: ...
@overload
def task(
    *, input: Literal["json", "binary"] = "json", parse: Optional[Callable[[Any], Any]] = None
) -> Callable[[Function], Task]: ...
def task(
    function: Optional[Function] = None,
    *,
    input: Literal["json", "binary"] = "json",
    parse: Optional[Callable[[Any], Any]] = None,
) -> Union[Task, Callable[[Function], Task]]:
    """Makes a task of a function; one to a module.

    ``parse`` turns the JSON into arguments, or raises: fatal ``invalid-arguments`` unless it is a TaskError. With
    ``input="binary"`` the function gets a Binary of any media type.
    """
    if function is not None:
        return Task(function, input, parse)
    return lambda decorated: Task(decorated, input, parse)
