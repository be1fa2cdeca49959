"""The task {{name}}: adds up numbers, slowly if asked to, and goes on where an earlier attempt ended."""

import json
from dataclasses import asdict, dataclass
from typing import Any, List, Union

from stem_guest import Context, Fatal, TaskError, task

BATCH = 10
"""After so many numbers come progress and a checkpoint."""


@dataclass(frozen=True)
class Args:
    numbers: List[Any]
    delay: float
    """The time spent on each number, in seconds."""


@dataclass(frozen=True)
class Sum:
    sum: Union[int, float]
    count: int
    resumedAt: int
    """How many numbers an earlier attempt had done."""


@dataclass
class State:
    """What the next attempt needs."""

    done: int = 0
    sum: Union[int, float] = 0


def parse(value: Any) -> Args:
    """What is raised here fails the task for good: ``invalid-arguments``."""
    if not isinstance(value, dict) or not isinstance(value.get("numbers"), list):
        raise TypeError('give an object with a list: {"numbers":[1,2,3]}')
    return Args(value["numbers"], float(value.get("delayMs", 0)) / 1000)


@task(parse=parse)
def add_up(args: Args, ctx: Context) -> Sum:
    state = State(**ctx.checkpoint.load({}))
    resumed_at = state.done
    if resumed_at > 0:
        ctx.log.info(f"going on after number {resumed_at}")
    try:
        for number in args.numbers[resumed_at:]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise Fatal("bad-number", f"numbers[{state.done}] is {json.dumps(number)}")
            if args.delay > 0:
                ctx.sleep(args.delay)
            ctx.heartbeat()
            state.sum += number
            state.done += 1
            if state.done % BATCH == 0 or state.done == len(args.numbers):
                ctx.checkpoint.save(asdict(state))
                ctx.progress(state.done / len(args.numbers), f"number {state.done} of {len(args.numbers)}")
    except TaskError as error:
        # A stop notice leaves time for this, and the next attempt then repeats nothing.
        if error.kind != "fatal":
            ctx.checkpoint.save(asdict(state))
        raise
    return Sum(state.sum, state.done, resumed_at)
