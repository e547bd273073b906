"""What a run leaves when it is over: its model's export, a summary, and lines on the screen."""

import math
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf import store
from glow_tf.architectures.schedule import epochs_training
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import in_one_line, printable
from glow_tf.data.overlap import share_looked_at
from glow_tf.devices import strategies
from glow_tf.model.flow import Flow
from glow_tf.run import tables
from glow_tf.run.callbacks import draw_samples
from glow_tf.run.context import Run
from glow_tf.run.report import read_run
from glow_tf.run.workdir import BEST_EPOCH, is_out_of_patience
from glow_tf.training.options import unsuited_rates
from glow_tf.version import __version__

OVERLAPPING = 0.2  # of held-out images; of CIFAR-10's there is none
OVERLAP = (
    "{} of {} {} images show pixels of training images, as pieces of one picture do that overlap. Their bits "
    "do not tell when a model knows images by heart: hold out pieces of other pictures"
)
REPORT = "report.html"
Exporter = Callable[[Flow, pathlib.Path], None]


def troubles_ahead(run: Run) -> list[str]:
    """Returns a sentence for what is wrong with schedule, rates and images; empty if nothing is."""
    train, found = run.config.train, []
    never = ", ".join(str(k + 1) for k in range(len(run.layouts)) if not epochs_training(k, run.phases))
    if never and not train.only_part:
        found.append(
            f"no epoch trains part {never} of {len(run.layouts)}. Raise part_epochs until each part has its "
            "turn, or finetune_epochs"
        )
    if train.optimizer != "sgd" and train.rate_scaling == "size":
        found += unsuited_rates(max(train.learning_rates()), train.warmup_steps)
    share = share_looked_at(run.images.train)  # of images that held-out ones may overlap
    for name, (count, looked_at) in run.images.overlaps.items():
        if count > max(OVERLAPPING * share * looked_at, share < 1):  # one alone may be chance
            found.append(OVERLAP.format(count, looked_at, name))
    return found


def trained_model(run: Run) -> Flow:
    """Returns the model that a run ends with, outside of any strategy: a SavedModel has no replicas."""
    if run.workdir.best_epoch is not None:
        return store.load(run.workdir.path, "best")
    with run.trainer.averages.in_place():
        return run.flow.recut()


def finish(run: Run, trained: Flow | None, export: Exporter, start: float) -> Mapping[str, Any]:
    """Writes the export and the summary of a run, in its first process, and prints it; returns the summary.

    `trained` is the `trained_model`, where it is needed. The process began at `start`, by `time.monotonic`.
    """
    history = run.workdir.read_history(len(run.phases))
    run.workdir.write_history(history)  # without the row of an epoch that has no checkpoint
    best, path = run.workdir.best_epoch, run.workdir.path
    if run.config.sample_every and best is not None and not any(path.glob(f"samples/epoch_{best:04d}.*")):
        draw_samples(run, trained, best)
    if run.config.export:
        print("Exporting …", flush=True)
        export(trained, path / "export")
    summary = _summary(run, history)
    error = math.nan if summary["test_bpd_se"] is None else summary["test_bpd_se"]
    run.workdir.write_summary(summary)
    report = write_report(run)
    print(tables.closing_table(history, len(run.layouts), run.costs))
    of = "one noise draw per test image: an upper bound in expectation"
    of = "of the density of the test data" if run.flow.config.is_real else of
    print(
        f"Finished: test {tables.bpd_text(summary['test_bpd'], error)} bits/dim ({of}), "
        f"{_which(run, history)}{summary['total_seconds']:.1f} s of training (this process ran for "
        f"{time.monotonic() - start:.0f} s in all), in {path}"
        f"{f'; see {path / report}' if report else ''}"
    )
    for warning in summary["warnings"]:
        print(f"WARNING: {warning}.")
    return summary


def _which(run: Run, history: Sequence[Mapping[str, str]]) -> str:
    """Says which epoch the model of a run is of, if that is the best on validation images."""
    best, epochs, planned = run.workdir.best_epoch, len(history), len(run.phases)
    if best is None:
        return ""
    of = f"{epochs} epochs" if epochs == planned else f"{epochs} epochs ({planned} were planned)"
    bits = f"by validation bits ({float(_scores(run, history)['validation_bpd']):.4f})"
    if not best:
        return f"of the untouched start: none of {of} was better {bits}, "
    return f"of epoch {best} of {of}, the best {bits}, "


def _scores(run: Run, history: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Returns the scores of the model that a run ends with, as a row of history.csv has them."""
    best = run.workdir.best_epoch
    return run.workdir.untouched if best == 0 else history[: best or None][-1]


def _summary(run: Run, history: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    last, best, score = history[-1], run.workdir.best_epoch, _scores(run, history)
    error = float(score["test_bpd_se"])
    epochs, planned, untouched = len(history), len(run.phases), run.workdir.untouched
    waited = is_out_of_patience(run.config.patience, epochs, best)
    stopped = f"a callback stopped training after epoch {epochs} of {planned}; the same command goes on"
    return {
        "test_bpd": float(score["test_bpd"]),
        "test_bpd_se": error if math.isfinite(error) else None,  # of a single image nobody knows it
        "total_seconds": float(last["total_seconds"]),
        "parameters": sum(run.parameters),
        "parts": [layout.flow_steps for layout in run.layouts],
        "epochs": epochs,
        **({} if best is None else {BEST_EPOCH: best}),
        **({"untouched": {name: float(cell) for name, cell in untouched.items()}} if untouched else {}),
        "versions": {
            "glow_tf": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "device": strategies.device_name(),
        "warnings": [
            *troubles_ahead(run),
            *([stopped] if epochs != planned and not waited else []),
        ],
    }


def write_report(run: Run, stopped: str = "") -> str:
    """Writes report.html into the workdir of a run that is over; the first process may.

    `stopped` says why a run ended before its end. Returns the name of the page; empty if it could not be
    written, which a line has said.
    """
    try:
        from glow_tf.run.report_page import run_page  # loads matplotlib

        write_atomically(run.workdir.path / REPORT, run_page(read_run(run.workdir.path, stopped)))
        return REPORT
    except Exception as error:
        reason = in_one_line(f"{type(error).__name__}: {error}")
        print(f"WARNING: {REPORT}: it could not be written: {printable(reason)}", flush=True)
        return ""
