"""What a process says when it cannot listen, or has lost another one or the connection to it."""

import contextlib
import time
from collections.abc import Iterator

import tensorflow as tf

from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.devices import liveness
from glow_tf.devices.processes import KEPT, ProcessGroup, lost_message

# What TensorFlow raises where a connection was reset, or a process was not heard for long.
CONNECTION_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@contextlib.contextmanager
def naming_the_taken_address(group: ProcessGroup | None) -> Iterator[None]:
    """Says in a ConfigError that this process cannot listen at its address; TensorFlow names none."""
    try:
        yield
    except tf.errors.UnknownError as error:
        if group is None or "server" not in error.message:
            raise
        raise ConfigError(
            f"the process must be able to listen at {group.addresses[group.index]}; another program may. "
            f"Received: {in_one_line(error.message)}"
        ) from None


@contextlib.contextmanager
def naming_who_is_lost(group: ProcessGroup | None) -> Iterator[None]:
    """Says in an OSError which process is lost, or that one failed or a connection broke.

    All processes were there when the context began, so one that does not answer any more is lost.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        if group is None:
            raise
        gone = liveness.lost(group)
        if not gone and isinstance(error, CONNECTION_ERRORS):
            time.sleep(liveness.MISSES * liveness.POLL)  # the other one may be about to end
            gone = liveness.lost(group)
        if gone:
            raise OSError(lost_message(gone)) from None
        if not isinstance(error, CONNECTION_ERRORS):
            raise
        reason = in_one_line(error.message)
        raise OSError(
            f"Another process failed, or the connection to it ({reason}): {liveness.described(group)}. {KEPT}"
        ) from None
