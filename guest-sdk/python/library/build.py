"""Makes a component of a task: ``python -m stem_guest.build task.py --output task.wasm``."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

VERSION = "0.25.1"
LIBRARY = Path(__file__).resolve().parent
ENTRY = """import {task} as module
from {library} import _worker

Handler = _worker.handler_of(module)
"""


def _end(problem: str, hint: str) -> NoReturn:
    sys.exit(f"error: {problem}\nhint: {hint}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="stem_guest.build", description="Makes a component of a task.")
    parser.add_argument("task", type=Path, help="the module with the task, such as task.py")
    parser.add_argument("--output", "-o", type=Path, required=True, help="the component")
    parser.add_argument("--wit", type=Path, default=LIBRARY / "wit", help="the worker's interface [default: that of this library]")
    arguments = parser.parse_args()
    task: Path = arguments.task.resolve()
    if not task.is_file():
        _end(f"{arguments.task} is no file", "name the module with the function that has @task")
    if not task.stem.isidentifier():
        _end(f"{task.name} cannot be imported", "give it a name of letters, digits and _")
    tool = Path(sys.executable).with_name("componentize-py")
    if not tool.exists():
        _end(f"there is no {tool}", f"pip install componentize-py=={VERSION} into the same environment")
    output: Path = arguments.output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.partial")
    environment = dict(os.environ)
    if sys.prefix != sys.base_prefix:
        # The tool takes packages from there: from the environment that this runs in, and not from one that happens to be active.
        environment["VIRTUAL_ENV"] = sys.prefix
    with tempfile.TemporaryDirectory() as folder:
        # The name must be none of the author's.
        entry = "stem_guest_entry"
        Path(folder, f"{entry}.py").write_text(ENTRY.format(task=task.stem, library=LIBRARY.name), encoding="utf-8")
        command = [tool, "--quiet", "--wit-path", arguments.wit, "--world", "guest", "componentize", entry]
        for path in (folder, task.parent, LIBRARY.parent):
            command += ["--python-path", path]
        ended = subprocess.run([*map(str, command), "--output", str(partial)], check=False, env=environment)
    if ended.returncode != 0:
        sys.exit(ended.returncode if ended.returncode > 0 else 1)
    # Whole or not at all: a worker may be watching the folder.
    os.replace(partial, output)


if __name__ == "__main__":
    main()
