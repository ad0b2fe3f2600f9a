"""What went wrong where nobody is told: in a thread, or in a call of the kernel's loop."""

from __future__ import annotations

from interproto_lib.errors import InterprotoError

_NO_MEMORY = ("not enough memory", "out of memory", "allocate memory")  # how torch and the system tell of it


def failure_words(problem: BaseException) -> str:
    """Say in a page what went wrong.

    Args:
        problem: What was raised.

    Returns:
        One or two sentences.

    Example:
        >>> failure_words(MemoryError())
        'there is not enough memory. Close what needs much of it, or show fewer identities.'
        >>> failure_words(ValueError("no such file"))
        'ValueError: no such file.'
    """
    if isinstance(problem, InterprotoError):
        return str(problem)
    if isinstance(problem, MemoryError) or any(words in str(problem).lower() for words in _NO_MEMORY):
        return "there is not enough memory. Close what needs much of it, or show fewer identities."
    said = str(problem).strip().rstrip(".")
    return f"{type(problem).__name__}: {said}." if said else f"{type(problem).__name__}."
