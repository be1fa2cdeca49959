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
        self.assertEqual(run(lambda args, ctx: ["\ud83d", "\\ud83d", "😀"]).result, ["\ufffd", "\\ud83d", "😀"])
        self.assertEqual(run(lambda args, ctx: 1, Binary("application/json", b"NaN")).failure.code, "invalid-arguments")

    def test_arguments_that_are_nested_so_deep_that_a_module_could_not_read_them_are_refused(self) -> None:
        def read(text: str) -> Any:
            failure = run(lambda args, ctx: 1, Binary("application/json", text.encode())).failure
            return failure and failure.code

        for depth, code in ((256, None), (257, "invalid-arguments"), (500_000, "invalid-arguments")):
            self.assertEqual(read("[" * depth + "]" * depth), code, depth)
        self.assertEqual(read('{"a":' * 300 + "1" + "}" * 300), "invalid-arguments")
        self.assertIsNone(read("[" + "[]," * 1000 + "{}]"))
        self.assertIsNone(read('["' + "[" * 1000 + '","\\\\","\\"' + "{" * 1000 + '"]'))

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

        buckets = {"thumbs": {"count": 1, "old": 2}}
        ran = run(body, children=["*"], config={"SIZE": "9"}, secrets={"KEY": "s"}, buckets=buckets)
        self.assertEqual(ran.result, [["child-1", "child-2"], "9", True, "s", None])
        self.assertEqual({key: entry.value for key, entry in ran.buckets["thumbs"].items()}, {"count": b"2", "new": b'"x"'})
        children = [(child.request.task_name, child.request.delay_ms, child.on_success) for child in ran.children]
        self.assertEqual(children, [("a", None, False), ("b", 1, False), ("c", None, True)])

    def test_a_failure_stays_what_it_is_whatever_was_raised_and_however_it_describes_itself(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise ValueError

        def parse(error: BaseException) -> Any:
            def refuse(args: Any) -> None:
                raise error

            return run(lambda args, ctx: 1, parse=refuse).failure

        for failure, expected in [
            (failing(SystemExit(0)), ("retryable", "SystemExit", "0")),
            (failing(GeneratorExit()), ("retryable", "GeneratorExit", "")),
            (failing(Mute()), ("retryable", "Mute", "what was raised has no text")),
            (failing(Fatal("bad", ValueError("why"))), ("fatal", "bad", "why")),
            (failing(Fatal(404, "half \ud83d")), ("fatal", "404", "half \ufffd")),
            (parse(Mute()), ("fatal", "invalid-arguments", "what was raised has no text")),
            (parse(Retryable("later", "m")), ("retryable", "later", "m")),
        ]:
            self.assertEqual((failure.kind, failure.code, failure.message), expected)

        def deep(args: Any, ctx: Any) -> Any:
            value: Any = []
            for _ in range(100_000):
                value = [value]
            return value

        self.assertEqual(run(deep).failure.code, "invalid-result")
        with self.assertRaises(KeyboardInterrupt):
            failing(KeyboardInterrupt())

    def test_bytes_are_bytes(self) -> None:
        self.assertEqual(Binary("image/png", bytearray(b"x")).data, b"x")  # type: ignore[arg-type]
        for bad in ("text", 5):
            with self.assertRaises(TypeError):
                Binary("image/png", bad)  # type: ignore[arg-type]
            self.assertEqual(run(lambda args, ctx: ctx.checkpoint.save_bytes(bad)).failure.code, "invalid-checkpoint")

    def test_logging_fails_no_attempt(self) -> None:
        class Mute:
            def __str__(self) -> str:
                raise ValueError

        def body(args: Any, ctx: Any) -> None:
            ctx.log.info("half \ud83d", message=1, level=2, self=Mute())
            with self.assertRaises(ValueError):
                ctx.log.write("warning", "")

        ran = run(body)
        fields = {"message": "1", "level": "2", "self": "a Mute that has no text"}
        self.assertEqual((ran.failure, ran.log[0].message, ran.log[0].fields), (None, "half \ufffd", fields))

    def test_a_grant_that_the_test_does_not_give_is_denied_as_by_a_worker(self) -> None:
        def child(**more: Any) -> Any:
            return lambda ctx: ctx.children.enqueue(Child(**{"task_name": "thumb.make", **more}))

        def kv(body: Any) -> Any:
            return lambda ctx: body(ctx.bucket("b"))

        def many(ctx: Any) -> None:
            while True:
                ctx.children.enqueue([Child("thumb.make")] * 100)

        thumbs: Any = {"children": ["thumb.*"]}
        b: Any = {"buckets": {"b": {"k": 1}}}
        for number, (code, body, script) in enumerate(
            [
                ("denied", child(), {}),
                ("denied", child(task_name="other"), thumbs),
                (None, child(dedup_key="k", headers={"n": 1}), thumbs),
                ("invalid", child(task_name="thumb. x"), thumbs),
                ("invalid", child(queue="a b"), thumbs),
                ("invalid", child(dedup_key="-"), thumbs),
                ("invalid", child(headers={"": "x"}), thumbs),
                ("too-large", child(input="x" * (1 << 20)), thumbs),
                ("invalid", lambda ctx: ctx.children.enqueue([Child("thumb.make")] * 101), thumbs),
                ("quota", many, thumbs),
                ("denied", kv(lambda bucket: bucket.put("k", 1)), {**b, "read_only": ["b"]}),
                (None, kv(lambda bucket: bucket.get("k")), {**b, "read_only": ["b"]}),
                ("invalid", kv(lambda bucket: bucket.get("")), b),
                ("invalid", kv(lambda bucket: bucket.get("a\nb")), b),
                ("too-large", kv(lambda bucket: bucket.get("k" * 513)), b),
                ("too-large", kv(lambda bucket: bucket.put("k", "x" * (1 << 16))), b),
                ("invalid", kv(lambda bucket: bucket.put("k", 1, ttl=0)), b),
                ("invalid", kv(lambda bucket: bucket.put("k", 1, if_version=1, if_absent=True)), b),
                ("invalid", kv(lambda bucket: bucket.put("k", 1, if_version=-1)), b),
                ("denied", lambda ctx: ctx.secrets.reveal("KEY"), {"placeholders": ["KEY"]}),
                (None, lambda ctx: ctx.secrets.placeholder("KEY"), {"placeholders": ["KEY"]}),
                (None, lambda ctx: ctx.config("SIZE"), {"config": {"SIZE": None}}),
                ("invalid", lambda ctx: ctx.config(""), {}),
            ]
        ):
            failure = run(lambda args, ctx: body(ctx) and None, **script).failure
            self.assertEqual(failure and failure.code, code, number)

    def test_children_come_to_be_once_for_a_key_and_with_the_success_they_wait_for(self) -> None:
        def enqueues(args: Any, ctx: Any) -> Any:
            ids = [ctx.children.enqueue(Child("a", dedup_key=key))[0] for key in "kkl"]
            ctx.children.enqueue(Child("later"), on_success=True)
            if args:
                raise Fatal("no", "")
            return ids

        def names(ran: Any) -> Any:
            return [f"{child.id} {child.request.task_name}" for child in ran.children]

        done = run(enqueues, children=["*"])
        self.assertEqual(done.result, ["child-1", "child-1", "child-2"])
        self.assertEqual(names(done), ["child-1 a", "child-2 a", "child-3 later"])
        self.assertEqual(names(run(enqueues, [1], children=["*"])), ["child-1 a", "child-2 a"])

    def test_a_value_is_gone_after_its_time(self) -> None:
        def body(args: Any, ctx: Any) -> Any:
            bucket = ctx.bucket("b")
            bucket.put("short", 1, ttl=0.1)
            ctx.sleep(0.099)
            before = bucket.get("short").value
            ctx.sleep(0.001)
            return [before, bucket.get("short")]

        ran = run(body, buckets={"b": {}})
        self.assertEqual((ran.result, ran.buckets), ([1, None], {"b": {}}))

    def test_spans_that_are_too_long_are_taken_as_long(self) -> None:
        lease = run(lambda args, ctx: ctx.extend_lease(float("inf")).days, max_lease=float("inf")).result
        self.assertGreaterEqual(lease, 365_000)

    def test_a_service_that_is_away_is_a_retryable_refusal(self) -> None:
        failure = run(lambda args, ctx: ctx.checkpoint.load(), unavailable=True).failure
        self.assertEqual((failure.kind, failure.code), ("retryable", "unavailable"))


if __name__ == "__main__":
    unittest.main()
