"""Errors that a user can act on.

Every message says what was given, what was expected and what to do. The command line prints the message as one
line on stderr and leaves with the error's exit code; a traceback means a defect of diffembed itself.
"""

from __future__ import annotations


class DiffembedError(Exception):
    """Base of every error that diffembed raises on purpose (exit code 1)."""

    exit_code = 1


class InputError(DiffembedError):
    """The caller's input is unusable: a path, a query, a record, an option's value (exit code 2)."""

    exit_code = 2


class ModelError(DiffembedError):
    """A model directory or checkpoint is missing, incomplete, damaged or of an unknown kind (exit code 3)."""

    exit_code = 3


class NotExportableError(ModelError):
    """A model is whole, but it has no ONNX form; the torch runtime runs it (exit code 3)."""


class IndexStoreError(DiffembedError):
    """An index on disk is damaged, locked, or was made by another model (exit code 4)."""

    exit_code = 4


class ClusterError(DiffembedError):
    """A server of vectors cannot be reached, refused something, or did only part of it (exit code 1).

    Attributes:
        status: of its answer in HTTP; ``None`` where there was none.
        failed: the documents that were not written as they should be.
    """

    def __init__(self, message: str, *, status: int | None = None, failed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.failed = failed


class ServerError(DiffembedError):
    """A server that writes text cannot be reached, refused a request, or gave no usable answer (exit code 1).

    Attributes:
        status: of its answer in HTTP; ``None`` where there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RecipeError(DiffembedError):
    """A training recipe names something unknown or impossible (exit code 5)."""

    exit_code = 5


class TrainingError(DiffembedError):
    """A training run cannot go on: a loss that is not finite, a checkpoint of another run, a full disk (exit 6)."""

    exit_code = 6


class StoppedError(TrainingError):
    """A training run was asked to stop (SIGTERM) and wrote its checkpoint first (exit code 143)."""

    exit_code = 143


class UnfinishedError(DiffembedError):
    """Work came to the end of the time that it was given and kept what is done; the same command goes on (exit 75)."""

    exit_code = 75


class MissingExtraError(DiffembedError):
    """A feature needs an optional part of the install; the message names the command that adds it (exit code 7)."""

    exit_code = 7
