"""The few named errors of the library. Each message says what was found, where, and what to do."""

from __future__ import annotations


class InterprotoError(Exception):
    """Base of every error raised on purpose: catch it to show a message instead of a stack trace."""


class ConfigError(InterprotoError, ValueError):
    """A setting has an unknown name, a wrong type or a value out of range."""


class ManifestError(InterprotoError, ValueError):
    """A manifest or age table is malformed; the message names file, row and column."""


class DatasetError(InterprotoError):
    """Images cannot be read, have the wrong size, or are too few for what was asked."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """A dataset is not where it was looked for; the message gives the steps to get it."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


class RunError(InterprotoError):
    """A run folder is missing, unfinished, locked or made with other settings."""


class CheckpointError(InterprotoError):
    """A checkpoint cannot be read or does not fit the model."""


class TrainingDivergedError(InterprotoError, ArithmeticError):
    """The loss became non-finite; the last good checkpoint is kept."""


class TrainingStoppedError(InterprotoError):
    """SIGTERM asked the training to stop; it wrote a checkpoint before, and goes on from there."""


class WriteError(InterprotoError):
    """A file could not be written (no permission, full disk); nothing that was there before is lost."""


class NotebookError(InterprotoError):
    """A notebook failed; the message names the cell, the error and the executed copy."""


class BrokenEnvironmentError(InterprotoError):
    """The installed packages cannot work together."""
