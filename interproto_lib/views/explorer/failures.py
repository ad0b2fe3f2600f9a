"""What went wrong where nobody is told: in a thread, or in a call of the kernel's loop."""

from __future__ import annotations

from interproto_lib.errors import InterprotoError


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
    # torch tells of memory by an error of another kind
    if isinstance(problem, MemoryError) or "not enough memory" in str(problem) or "out of memory" in str(problem):
        return "there is not enough memory. Close what needs much of it, or show fewer identities."
    said = str(problem).strip().rstrip(".")
    return f"{type(problem).__name__}: {said}." if said else f"{type(problem).__name__}."
