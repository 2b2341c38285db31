"""Running the command line in this process and in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from diffembed.cli import app

REPO = Path(__file__).parents[2]


class Ran:
    """What a command left behind."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def json(self) -> Any:
        """stdout as JSON: fails if anything but JSON is on it."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)

    def fails(self, code: int, *words: str) -> None:
        """Failed with this code, one line on stderr that holds these words, and nothing on stdout."""
        assert self.code == code, self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("diffembed: error: ")
        for word in words:
            assert word in lines[0]
        assert self.stdout == ""


def parsed(words: list[str]) -> Any:
    """The context of the command that some words (without ``diffembed``) call; parses them and runs nothing."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context("diffembed", list(words), parent=context, resilient_parsing=True)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    return command.make_context("example", words, parent=context)


def run(*args: str | Path, stdin: str | None = None) -> Ran:
    result = CliRunner().invoke(app, [str(a) for a in args], input=stdin, prog_name="diffembed")
    return Ran(result.exit_code, result.stdout, result.stderr)


def process(*args: str | Path, stdin: str | None = None, before: str = "pass", **env: str) -> Ran:
    """The same as a process of its own; ``before`` is Python that runs first."""
    code = f"import sys; sys.argv[0] = 'diffembed'; {before}; from diffembed.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(REPO / "src"), **env},
        timeout=120,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)
