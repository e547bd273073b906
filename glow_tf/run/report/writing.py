"""Writes a run's report; whatever goes wrong with it is a warning, and no error of the run."""

import contextlib
from collections.abc import Iterator

from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import in_one_line, printable
from glow_tf.model.glow import Glow
from glow_tf.run.context import Run
from glow_tf.run.report.content import read_run
from glow_tf.run.report.scored import scored_images

NAME = "report.html"


def write_report(run: Run, trained: Glow | None = None, stopped: str = "") -> str:
    """Writes report.html into the workdir of a run that is over; the first process may.

    The model that it ends with scores images, if it is there; `stopped` says why a run ended before its end.
    Returns the name of the page; empty if it could not be written, which a line has said.
    """
    scored = {}
    if trained is not None:
        with _warning("images could not be scored"):
            scored = scored_images(run, trained)
    with _warning("it could not be written"):
        from glow_tf.run.report.page import run_page  # loads matplotlib

        write_atomically(run.workdir.path / NAME, run_page(read_run(run.workdir.path, stopped, scored)))
        return NAME
    return ""


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    """Turns an error into a line."""
    try:
        yield
    except Exception as error:
        reason = in_one_line(f"{type(error).__name__}: {error}")
        print(f"WARNING: {NAME}: {what}: {printable(reason)}", flush=True)
