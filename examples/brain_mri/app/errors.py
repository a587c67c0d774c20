"""Why the application gives no answer: one base for its own errors, and what becomes of a library's. Standard library alone.

An error's text is the last line of the run, which people keep. The application's own errors name attributes, counts and numbers of the
acquisition, never a value that identifies somebody. Errors of libraries quote what they could not read, so only their kind is passed on.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class NoAnswerError(ValueError):
    """The application cannot give a right answer to this study. The text is one line that names the cause."""


class UnexpectedError(NoAnswerError):
    """A library failed on the study; the text names the step, the kind of error and the function, and quotes nothing."""


@contextmanager
def no_values_quoted(step: str) -> Iterator[None]:
    """Replace errors that may quote a value of the study by an UnexpectedError. Memory and files keep their own errors.

    Args:
        step: What is done within the block, as the beginning of a sentence: "reading the files".
    """
    try:
        yield
    except (NoAnswerError, MemoryError, OSError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UnexpectedError(f"{step} failed: {type(error).__name__} in {frame.name} (line {frame.lineno})") from None


def one_line(error: BaseException) -> str:
    """Kind and text of an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
