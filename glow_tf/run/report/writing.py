"""Writes a run's report; whatever goes wrong with it is a warning, and no error of the run."""

import base64
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import in_one_line, printable
from glow_tf.model.conditions import some_of
from glow_tf.model.glow import Glow
from glow_tf.run import pictures
from glow_tf.run.context import Run
from glow_tf.run.report.content import read_run

SHOWN = 8  # images at each end
VALUES = 2**20  # of all images that are scored, so that it takes seconds: 341 images of 32×32×3
LARGEST_SIDE = 128  # pixels; larger images are shown smaller
NAME = "report.html"


def scored_images(run: Run, glow: Glow) -> dict[str, Any]:
    """Scores images with a run's model, and returns what `RunContent.scored` is.

    The images are those held out to choose the best epoch, if there are some, otherwise test images. Empty of
    data that make no pictures, and where a single level is trained.
    """
    if not glow.config.is_pictures or run.config.train.only_part:
        return {}
    split = "validation" if len(run.images.validation) else "test"
    images = getattr(run.images, split)
    images = np.asarray(images[: max(VALUES // images[0].size, 1)])
    given, size = run.images.conditions.get(split), run.config.train.batch_size
    batches = [slice(start, start + size) for start in range(0, len(images), size)]
    bits = [glow.bits_per_dim(images[own], run.config.seed, some_of(given, own)) for own in batches]
    bits = np.concatenate(bits)
    order = np.flatnonzero(np.isfinite(bits))
    order = order[np.argsort(bits[order], kind="stable")]
    count = min(SHOWN, len(order) // 2)
    names = run.images.names.get(split) or [f"image {k}" for k in range(len(images))]

    def told(places: Sequence[int]) -> list[dict[str, Any]]:
        shown = pictures.stretched(images[places], run.images.top)
        pngs = [base64.b64encode(pictures.png(image, LARGEST_SIDE)).decode() for image in shown]
        return [
            {"name": names[k], "bits": float(bits[k]), "png": p} for k, p in zip(places, pngs, strict=True)
        ]

    ends = {"usual": told(order[:count]), "unusual": told(order[::-1][:count])}
    return {"split": split, "count": len(images), **ends}


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
