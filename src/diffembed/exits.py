"""How the command line ends: every failure is one line on stderr and an exit code.

A ``DiffembedError`` brings its own code; wrong use of the options is unusable input; anything else that escapes
is a defect of diffembed and says so, with the traceback when ``DIFFEMBED_DEBUG=1``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from diffembed import console
from diffembed.errors import DiffembedError, InputError, MissingExtraError

# Modules that only an extra brings, for verbs whose code needs one from its first line.
_EXTRA_OF = dict.fromkeys(("torch", "transformers", "accelerate", "safetensors", "onnx", "onnxscript"), "train")
_EXTRA_OF |= dict.fromkeys(("peft", "tensorboard"), "train")
_EXTRA_OF |= {"bm25s": "eval", "pytrec_eval": "eval", "sentence_transformers": "eval"}

EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

EXIT_CODES = """\b
Exit codes:
    0  it worked
    1  it failed for a reason of its own kind; the message says which
    2  unusable input: a path, a query, a record, an option or its value
    3  a model directory or checkpoint is missing, incomplete or damaged
    4  an index on disk is damaged, locked, or was made by another model
    5  a training recipe names something unknown or impossible
    6  a training run cannot go on
    7  an optional part of the install is missing; the message names the command that adds it
   70  a defect of diffembed (DIFFEMBED_DEBUG=1 shows the traceback)
   75  the time that was given is over and what is done is kept: run the same command to go on
  130  interrupted with Ctrl-C
  141  the reader of stdout went away
  143  a training run was stopped by SIGTERM; its checkpoint is written
\b
Data goes to stdout, progress and errors to stderr. Every command that prints data takes --json."""


class ExplainingGroup(TyperGroup):
    """The root command: turns every way to fail into one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        console.make_streams_safe()
        try:
            result = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            code = result if isinstance(result, int) else 0
        except DiffembedError as error:
            console.error_line(str(error))
            code = error.exit_code
        except MemoryError:
            console.error_line("out of memory; give fewer or smaller inputs at once")
            code = 1
        except Exception as error:
            code = _explain(error)
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        # These two are dealt with here, below typer's own handling of them.
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            console.error_line("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # The interpreter flushes stdout once more when it leaves; give it somewhere to write.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_BROKEN_PIPE) from None


def _explain(error: Exception) -> int:
    """One line for an exception that is not ours: a wrong use of the options, a failing disk, or a defect."""
    if hasattr(error, "format_message"):  # typer's usage errors, whichever click is below it
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "diffembed"
        console.error_line(f"{error.format_message().rstrip('.')}; see {where} --help")
        return int(getattr(error, "exit_code", InputError.exit_code))
    if os.environ.get("DIFFEMBED_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRA_OF.get((error.name or "").partition(".")[0])):
        console.error_line(
            f"this needs {error.name}, which is not installed; add it with: pip install 'diffembed[{extra}]'"
        )
        return MissingExtraError.exit_code
    if isinstance(error, OSError) and error.strerror:
        console.error_line(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
        return DiffembedError.exit_code
    console.error_line(
        f"this is a defect of diffembed, not of your input: {type(error).__name__}: {error} "
        "(run again with DIFFEMBED_DEBUG=1 for the traceback)"
    )
    return EXIT_DEFECT
