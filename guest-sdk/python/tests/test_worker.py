"""What stands between the worker's functions and the library: the generated bindings are stand-ins that keep what they are told."""

import sys
import types
import unittest
from datetime import timedelta
from typing import Any, List
from unittest.mock import patch

from stem_guest import Binary, Child, Fatal, Retryable, TaskError, task

TOLD: List[Any] = []


class Err(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Standin:
    """A module of the bindings, whose names are records that keep what they are made of."""

    def __init__(self, **functions: Any) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        if name == "Level":
            return types.SimpleNamespace(TRACE=0, DEBUG=1, INFO=2, WARN=3, ERROR=4)
        self.__dict__[name] = type(name, (tuple,), {"__new__": lambda of, *given: tuple.__new__(of, given)})
        return self.__dict__[name]


def telling(*given: Any) -> None:
    TOLD.append(given)


MODULES = ("checkpoint", "config", "context", "kv", "secrets", "types")
IMPORTS: Any = types.ModuleType("wit_world.imports")
IMPORTS.__dict__.update({name: Standin() for name in MODULES})
IMPORTS.log = Standin(write=telling)
IMPORTS.children = Standin(enqueue=telling, Release=types.SimpleNamespace(NOW="now", ON_SUCCESS="on-success"))
IMPORTS.lifecycle = Standin(heartbeat=lambda: types.SimpleNamespace(code="revoked", message="", grace=2**64 - 1))
STANDINS: Any = {
    "componentize_py_types": types.SimpleNamespace(Err=Err),
    "wit_world": types.ModuleType("wit_world"),
    "wit_world.imports": IMPORTS,
}


def run(body: Any) -> Any:
    """What the component would answer, or the failure that it would throw."""
    with patch.dict(sys.modules, STANDINS):
        from stem_guest import _worker

        module = types.SimpleNamespace(__name__="task", body=task(body))
        payload = types.SimpleNamespace(media_type="application/json", bytes=b"{}")
        try:
            return _worker.handler_of(module)().run(payload)  # type: ignore[arg-type]
        except Err as failed:
            return failed.value


def failing(error: BaseException) -> Any:
    def body(args: Any, ctx: Any) -> None:
        raise error

    return run(body)


class Worker(unittest.TestCase):
    def test_a_failure_goes_over_as_what_it_is_however_it_describes_itself(self) -> None:
        class Odd(TaskError):
            kind = "odd"

        for error, kind, told in [
            (Fatal("c", "half \ud83d"), "TaskError_Fatal", (("c", "half \ufffd", None),)),
            (Fatal("c", ValueError("why")), "TaskError_Fatal", (("c", "why", None),)),
            (Fatal("c", "m", detail=object()), "TaskError_Fatal", (("c", "m", None),)),
            (Fatal("c", "m", detail=Binary("image/png", b"1")), "TaskError_Fatal", (("c", "m", ("image/png", b"1")),)),
            (Odd("c", "m"), "TaskError_Retryable", ((("c", "m", None), None),)),
            (Retryable("c", "m", after=1.5), "TaskError_Retryable", ((("c", "m", None), 1500),)),
            (Retryable("c", "m", after=timedelta(seconds=-1)), "TaskError_Retryable", ((("c", "m", None), None),)),
            (Retryable("c", "m", after="30"), "TaskError_Retryable", ((("c", "m", None), None),)),  # type: ignore[arg-type]
            (SystemExit(0), "TaskError_Retryable", ((("SystemExit", "0", None), None),)),
            (KeyboardInterrupt(), "TaskError_Retryable", ((("KeyboardInterrupt", "", None), None),)),
        ]:
            failure = failing(error)
            self.assertEqual((type(failure).__name__, failure), (kind, told))
        # Out of memory is an end at a limit, which the worker names.
        with self.assertRaises(MemoryError):
            failing(MemoryError())

    def test_text_and_numbers_go_over_as_the_worker_takes_them(self) -> None:
        TOLD.clear()
        run(lambda args, ctx: ctx.log.info("half \ud83d", key="\ud83d"))
        run(lambda args, ctx: ctx.children.enqueue(Child("a", dedup_key=7, headers={"n": 1})))  # type: ignore[arg-type,dict-item]
        child = ("a", None, ("application/json", b"{}"), None, "7", [("n", "1")])
        self.assertEqual(TOLD, [(2, "half \ufffd", [("key", "\ufffd")]), ([child], "now")])
        # The longest grace of the contract is longer than a timedelta.
        self.assertEqual(run(lambda args, ctx: ctx.beat().grace.days >= 365_000), ("application/json", b"true"))

    def test_no_two_attempts_draw_the_same_numbers(self) -> None:
        import random

        kept = random.random
        drawn = []
        for _ in range(2):
            # As the build left it.
            random.seed(1)
            drawn.append(run(lambda args, ctx: [random.random(), kept()]))
        self.assertNotEqual(drawn[0], drawn[1])


if __name__ == "__main__":
    unittest.main()
