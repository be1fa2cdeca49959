"""The conformance task: guest-sdk/CONFORMANCE.md says what it answers."""

import random
import secrets
import time
import uuid
from datetime import timedelta
from typing import Any, Callable, Dict, Type

from stem_guest import Binary, Cancelled, Context, Fatal, Retryable, TaskError, task

MIB = 1 << 20
PAGE = 4096
KEPT = random.random
"""As libraries keep it."""
FAILURES: Dict[str, Type[TaskError]] = {"retryable": Retryable, "fatal": Fatal, "cancelled": Cancelled}


def need(args: Dict[str, Any], key: str, kind: type) -> Any:
    """A key that the operation needs."""
    value = args.get(key)
    if type(value) is not kind or (kind is int and not 0 <= value < 2**53):
        raise Fatal("invalid-arguments", f"{key} is no {kind.__name__}")
    return value


def echo(args: Dict[str, Any], _: Context) -> Any:
    text = need(args, "text", str)
    try:
        return {"text": text, "bytes": len(text.encode())}
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair, which is no text.
        raise Fatal("invalid-arguments", "text is not Unicode") from None


def info(_: Dict[str, Any], ctx: Context) -> Any:
    about = ctx.info
    return {
        "taskName": about.task_name,
        "queue": about.queue,
        "attempt": about.attempt,
        "idempotencyKey": about.idempotency_key,
    }


def fail(args: Dict[str, Any], _: Context) -> Any:
    failure = FAILURES.get(need(args, "kind", str))
    if failure is None:
        raise Fatal("invalid-arguments", f"kind is {args['kind']}")
    code, message = need(args, "code", str), need(args, "message", str)
    if failure is Retryable and "afterMs" in args:
        raise Retryable(code, message, after=timedelta(milliseconds=need(args, "afterMs", int)))
    raise failure(code, message)


def sleep(args: Dict[str, Any], ctx: Context) -> Any:
    ms = need(args, "ms", int)
    ctx.sleep(timedelta(milliseconds=ms))
    return {"ms": ms}


def progress(args: Dict[str, Any], ctx: Context) -> Any:
    steps = need(args, "steps", int)
    ctx.heartbeat()
    for step in range(1, steps + 1):
        ctx.progress(step / steps, f"step {step} of {steps}")
    return {"steps": steps}


def beat(_: Dict[str, Any], ctx: Context) -> Any:
    ctx.progress(message="beating")
    while True:
        ctx.heartbeat()


def allocate(args: Dict[str, Any], _: Context) -> Any:
    mib = need(args, "mib", int)
    held = []
    for _ in range(mib):
        block = bytearray(MIB)
        for at in range(0, MIB, PAGE):
            block[at] = 1
        held.append(block)
    return {"mib": len(held)}


def spin(args: Dict[str, Any], ctx: Context) -> Any:
    if "rounds" not in args:
        ctx.progress(message="spinning")
        while True:
            pass
    rounds = need(args, "rounds", int)
    x = 1
    for _ in range(rounds):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
    return {"rounds": rounds, "x": x}


def checkpoint(args: Dict[str, Any], ctx: Context) -> Any:
    steps, stop_at = need(args, "steps", int), need(args, "stopAt", int)
    start = ctx.checkpoint.load({"step": 0})["step"]
    for step in range(start + 1, steps + 1):
        ctx.checkpoint.save({"step": step})
        if start == 0 and step == stop_at:
            raise Retryable("interrupted", f"stopped at step {step}")
    return {"from": start, "steps": steps}


def fresh(_: Dict[str, Any], ctx: Context) -> Any:
    drawn = [random.random(), KEPT(), str(uuid.uuid4()), secrets.token_hex()]
    return {"drawn": drawn, "nowMs": time.time() * 1000}


OPERATIONS: Dict[str, Callable[[Dict[str, Any], Context], Any]] = {
    operation.__name__: operation
    for operation in (echo, info, fail, sleep, progress, beat, allocate, spin, checkpoint, fresh)
}


@task(input="binary")
def conformance(payload: Binary, ctx: Context) -> Any:
    if payload.media_type == "application/octet-stream":
        return payload
    try:
        args = payload.json()
    except (ValueError, RecursionError) as error:
        raise Fatal("invalid-arguments", str(error)) from None
    if not isinstance(args, dict):
        raise Fatal("invalid-arguments", "the payload is no object")
    op = need(args, "op", str)
    if op not in OPERATIONS:
        raise Fatal("unknown-op", f"unknown op {op}")
    return OPERATIONS[op](args, ctx)
