"""The library on its own: ``python3 -m unittest`` with its folder on the path as ``stem_guest``."""

import unittest
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from stem_guest import Binary, Cancelled, Child, Fatal, HostError, Retryable, StopNotice, task
from stem_guest.testing import Stop, attempt


def run(body: Any, args: Any = None, *, input: Any = "json", parse: Any = None, **script: Any) -> Any:
    return attempt(task(input=input, parse=parse)(body), args, **script)


def failing(error: BaseException) -> Any:
    def body(args: Any, ctx: Any) -> None:
        raise error

    return run(body).failure


class Library(unittest.TestCase):
    def test_what_a_task_raises_becomes_a_failure(self) -> None:
        busy = failing(Retryable("busy", "503", after=1.5, detail={"status": 503}))
        self.assertEqual((busy.kind, busy.code, busy.message, busy.after), ("retryable", "busy", "503", 1.5))
        bug = failing(KeyError("x"))
        self.assertEqual((bug.kind, bug.code), ("retryable", "KeyError"))
        self.assertIsInstance(bug.__cause__, KeyError)
        self.assertEqual(failing(Fatal("no", "")).kind, "fatal")
        self.assertEqual(run(lambda args, ctx: object()).failure.code, "invalid-result")
        self.assertEqual(run(lambda args, ctx: float("nan")).failure.code, "invalid-result")
        # Out of memory is an end at a limit, which the worker names.
        with self.assertRaises(MemoryError):
            failing(MemoryError())

    def test_arguments_and_results_are_json_or_bytes(self) -> None:
        @dataclass
        class Point:
            x: int
            y: int

        self.assertIsNone(run(lambda args, ctx: None).result)
        self.assertEqual(run(lambda args, ctx: Point(1, args["y"]), {"y": 2}).binary.data, b'{"x":1,"y":2}')
        self.assertEqual(run(lambda point, ctx: point.x, {"x": 1, "y": 2}, parse=lambda args: Point(**args)).result, 1)
        self.assertEqual(run(lambda point, ctx: 1, {"x": 1}, parse=lambda args: Point(**args)).failure.code, "invalid-arguments")
        png = Binary("image/png", bytes([1, 2, 3]))
        self.assertEqual(run(lambda given, ctx: given, png, input="binary").binary, png)
        self.assertTrue(run(lambda args, ctx: 1, png).failure.message.startswith("expected JSON, got image/png"))
        self.assertEqual(run(lambda args, ctx: "x" * (1 << 20)).failure.code, "result-too-large")
        self.assertEqual(run(lambda args, ctx: 1, Binary("application/json", b"NaN")).failure.code, "invalid-arguments")

    def test_only_ordinary_functions_are_tasks(self) -> None:
        async def coroutine(args: Any, ctx: Any) -> None:
            pass

        with self.assertRaisesRegex(TypeError, "ordinary function"):
            task(coroutine)
        with self.assertRaisesRegex(ValueError, "binary"):
            task(input="text")(lambda args, ctx: None)  # type: ignore[call-overload]

    def test_a_stop_notice_ends_the_task_at_its_next_checkpoint_unless_it_looks_for_it(self) -> None:
        def beats(args: Any, ctx: Any) -> None:
            while True:
                ctx.heartbeat()

        def ended(code: str, message: str = "") -> Any:
            return run(beats, stop=Stop(StopNotice(code, message), after_beats=3)).failure

        self.assertIsInstance(ended("revoked"), Cancelled)
        drain = ended("worker-drain", "bye")
        self.assertEqual((type(drain), drain.code, drain.message), (Retryable, "worker-drain", "bye"))
        self.assertEqual(ended("revoked").message, "asked to stop")

        def looks(args: Any, ctx: Any) -> Any:
            while (notice := ctx.beat()) is None:
                pass
            return [notice.code, ctx.stop_requested().grace.total_seconds()]

        stop = Stop(StopNotice("revoked", grace=timedelta(seconds=0.5)))
        self.assertEqual(run(looks, stop=stop).result, ["revoked", 0.5])

    def test_sleeping_takes_the_hosts_time_up_to_its_limits(self) -> None:
        def sleeps(duration: Any) -> Any:
            def body(args: Any, ctx: Any) -> Any:
                ctx.sleep(duration)
                return [left.total_seconds() for left in ctx.time_left()]

            return body

        self.assertEqual(run(sleeps(0.0295), soft=0.1, hard=0.2).result, [0.07, 0.17])
        self.assertEqual(run(sleeps(timedelta(milliseconds=30)), soft=0.1, hard=0.2).result, [0.07, 0.17])
        self.assertEqual(run(sleeps(0.15), soft=0.1, hard=0.2).failure.code, "soft-time-limit")
        self.assertTrue(run(sleeps(float("inf")), hard=0.2).terminated)
        for bad in (float("nan"), -1):
            self.assertEqual(run(sleeps(bad)).failure.code, "invalid")

    def test_progress_is_brought_into_its_bounds(self) -> None:
        def body(args: Any, ctx: Any) -> None:
            ctx.progress(7, "é" * 2000, {"rows": 1})
            ctx.progress(float("nan"))
            ctx.progress(0.5, data="x" * 20_000)

        ran = run(body)
        told = [(update.fraction, update.message and len(update.message)) for update in ran.progress]
        self.assertEqual(told, [(1.0, 512), (None, None)])
        self.assertIsInstance(ran.failure, HostError)
        self.assertEqual((ran.failure.code, ran.failure.bound), ("too-large", 16384))

    def test_children_buckets_settings_and_secrets_are_there_when_they_are_granted(self) -> None:
        def body(args: Any, ctx: Any) -> Any:
            ids = ctx.children.enqueue([Child("a"), Child("b", [1], delay=0.0005, dedup_key="k", headers={"n": "1"})])
            ctx.children.enqueue(Child("c"), on_success=True)
            bucket = ctx.bucket("thumbs")
            entry = bucket.get("count")
            bucket.put("count", entry.value + 1, if_version=entry.version)
            with self.assertRaisesRegex(HostError, "conflict"):
                bucket.put("count", 0, if_version=entry.version)
            with self.assertRaisesRegex(HostError, "conflict"):
                bucket.put("count", 0, if_absent=True)
            bucket.put("new", "x", if_absent=True, ttl=1)
            bucket.remove("old")
            with self.assertRaisesRegex(HostError, "not-found"):
                bucket.remove("old")
            with self.assertRaisesRegex(HostError, "denied"):
                ctx.bucket("others").get("x")
            with self.assertRaisesRegex(HostError, "denied"):
                ctx.config("NOTHING")
            revealed = ctx.secrets.reveal("KEY").decode()
            return [ids, ctx.config("SIZE"), ctx.secrets.placeholder("KEY") != revealed, revealed, bucket.get("none")]

        ran = run(body, config={"SIZE": "9"}, secrets={"KEY": "s"}, buckets={"thumbs": {"count": 1, "old": 2}})
        self.assertEqual(ran.result, [["child-1", "child-2"], "9", True, "s", None])
        self.assertEqual({key: entry.value for key, entry in ran.buckets["thumbs"].items()}, {"count": b"2", "new": b'"x"'})
        children = [(child.request.task_name, child.request.delay_ms, child.on_success) for child in ran.children]
        self.assertEqual(children, [("a", None, False), ("b", 1, False), ("c", None, True)])

    def test_a_service_that_is_away_is_a_retryable_refusal(self) -> None:
        failure = run(lambda args, ctx: ctx.checkpoint.load(), unavailable=True).failure
        self.assertEqual((failure.kind, failure.code), ("retryable", "unavailable"))


if __name__ == "__main__":
    unittest.main()
