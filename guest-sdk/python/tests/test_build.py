"""The build, with a stand-in for the tool that makes the component."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, List

TOOL = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
echo "$VIRTUAL_ENV" > "$2"
"""


class Build(unittest.TestCase):
    def test_packages_are_those_of_the_environment_that_builds(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "own"], check=True)
            tool = folder / "own/bin/componentize-py"
            tool.write_text(TOOL)
            tool.chmod(0o755)
            (folder / "task.py").write_text("")
            command: List[Any] = [folder / "own/bin/python", "-m", "stem_guest.build", "task.py", "--output", "task.wasm"]
            for active in ("", "/that/is/active"):
                subprocess.run(command, check=True, cwd=folder, env={**os.environ, "VIRTUAL_ENV": active})
                self.assertEqual((folder / "task.wasm").read_text().strip(), str(folder / "own"))


if __name__ == "__main__":
    unittest.main()
