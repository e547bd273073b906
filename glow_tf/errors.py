"""The errors that users meet."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(ValueError):
    """A setting is wrong; the message says what was expected and what was received."""


class DivergedError(RuntimeError):
    """Training diverged; the message names the part, the step and the bijector.

    Args:
      message: the report.
      parts: indices (from 0) of the parts at fault: the one whose loss or gradient was wrong, or all parts of
        a phase that does not tell.
      reason: what happened, in a few words.
    """

    def __init__(self, message: str, parts: Sequence[int] = (), reason: str = ""):
        super().__init__(message)
        self.parts = tuple(parts)
        self.reason = reason


class NonFiniteError(DivergedError):
    """A loss or gradient was not finite."""
