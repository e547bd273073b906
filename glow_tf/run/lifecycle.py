"""A training run from its configuration to its summary."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import phases_of
from glow_tf.config import RunConfig
from glow_tf.core.errors import DivergedError, in_one_line
from glow_tf.devices import strategies
from glow_tf.devices.strategies import set_up_process
from glow_tf.devices.workers import (
    Cluster,
    check_same_in_all,
    cluster_of,
    holds_anywhere,
    in_several_processes,
    is_chief,
)
from glow_tf.run import callbacks as run_callbacks
from glow_tf.run import tables
from glow_tf.run.context import Run, prepare
from glow_tf.run.epoch import EpochResult, HeldOut, loses_patience
from glow_tf.run.finish import Exporter, finish, trained_model, troubles_ahead, write_report
from glow_tf.run.interrupts import interrupts
from glow_tf.run.settings import Asked, likely
from glow_tf.run.workdir import SUMMARY, Workdir
from glow_tf.training.batch import initialize_from
from glow_tf.training.fit_callbacks import OneTraining

Callbacks = Sequence[keras.callbacks.Callback]


def train(run: RunConfig | Asked, export: Exporter, callbacks: Callbacks = ()) -> Mapping[str, Any]:
    """Trains a flow as configured, or resumes the run in its workdir; returns its summary.

    A run, finished or not, may get other numbers of epochs (see `Workdir`). A new run may start from
    the model of another one (`init_from`).

    Everything that can be wrong with the configuration, the data and the disk is found before training.

    Under `multi_worker` (see `cluster_of`) process 0 writes the workdir and returns the summary. The others
    do what it does, and read the same workdir, but write nothing.

    Args:
      run: all its settings; or what is asked for, of which the images decide the rest.
      export: writes a model to a folder, as `glow_tf.export` does; called at the end if `config.export`.
      callbacks: of the whole training, as `OneTraining` has them, after the run's own. One that stops
        training stops it at the end of the epoch.

    Raises:
      ConfigError: something is wrong with the settings, the data or the disk; nothing was trained.
      OSError: the disk, or another process, failed; the message says what is kept.
      DivergedError: training diverged; the message says what is kept.
      KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the message says which epoch is kept.
    """
    start = time.monotonic()
    asked = run if isinstance(run, Asked) else Asked(run.to_settings())
    expected = likely(asked)
    config = expected.config
    cluster = cluster_of(config.strategy)
    workdir = Workdir(config, is_chief(cluster))
    try:
        if finished := workdir.read_summary():
            _say_finished(workdir, finished)
            return finished
        workdir.check_progress()
        workdir.check_place_of_export()
        with _naming_a_lost_process(cluster):
            strategy = _set_up(config, cluster)
            with interrupts():
                return _train(prepare(asked, expected, workdir, strategy), export, callbacks, start)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(workdir.kept()) from None
    finally:
        workdir.close()


def _say_finished(workdir: Workdir, finished: Mapping[str, Any]) -> None:
    left = len(phases_of(workdir.config)) - finished["epochs"]
    early = f" It ended by patience, {left} epochs early." if left else ""
    path = workdir.path
    print(
        f"This run is finished: test {finished['test_bpd']:.4f} bpd, see {path / SUMMARY}.{early}", flush=True
    )
    if workdir.config.export and not (path / "export").exists():
        print(f"It has no export; glow-tf export --model={path} writes one.", flush=True)


@contextlib.contextmanager
def _naming_a_lost_process(cluster: Cluster | None) -> Iterator[None]:
    """Says in an OSError that another process of the cluster has ended, of which TensorFlow tells much."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if cluster is None:
            raise
        raise OSError(
            "another process of the run has ended, or cannot be reached. The last checkpoint is kept, if "
            "there is one; start the same command again in all processes. "
            f"Received: {in_one_line(error.message)[:300]}"
        ) from None


def _set_up(config: RunConfig, cluster: Cluster | None) -> tf.distribute.Strategy:
    """Sets up this process, and returns the strategy of the run."""
    processes = 1 if cluster is None else cluster.cluster_spec().num_tasks("worker")
    if cluster is not None:  # with several processes, TensorFlow traces anew to save, each time, and warns
        tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    # Where parts have their own devices, the parts run side by side, not pieces of a batch.
    streams = 1 if config.strategy == "part_parallel" else config.streams
    set_up_process(config.train.batch_size // processes, streams, reversible=config.train.reversible)
    strategy = strategies.make_strategy(config.strategy, config.virtual_devices)
    strategies.check_batch_size(config.train.batch_size, strategy)
    return strategy


def _train(run: Run, export: Exporter, callbacks: Callbacks, start: float) -> Mapping[str, Any]:
    sentences = [*troubles_ahead(run), *strategies.slow_compilation(run.config.compiles)]
    warnings = (f"WARNING: {sentence}." for sentence in sentences)
    print(run.heading, run.description, *warnings, sep="\n", flush=True)
    epoch = _restore(run)
    with _saying_what_is_kept(run):
        if run.config.init_from and len(run.images.validation) and not epoch:
            _score_start(run)
        if epoch < len(run.phases) and not loses_patience(run, epoch):
            _fit(run, epoch, callbacks)
        is_used = run.config.export or run.workdir.best_epoch is not None
        trained = trained_model(run) if run.is_chief and is_used else None
        result = finish(run, trained, export, start) if run.is_chief else {}
    holds_anywhere(run.strategy, False)  # no process ends before the first has written everything
    return result


@contextlib.contextmanager
def _saying_what_is_kept(run: Run) -> Iterator[None]:
    """Adds to an error's message which epoch is kept, if any, and reports it; the first process alone."""
    try:
        yield
    except BaseException as error:
        if not run.is_chief:
            raise
        raised, kept = error, run.workdir.kept()
        if isinstance(error, DivergedError):
            again = "It would diverge there again: a new run needs a lower rate."
            raised = DivergedError(f"{error} {kept} {again}")
        elif isinstance(error, OSError):
            raised = OSError(f"{error} {kept}")
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = f"It was interrupted. {kept}" if interrupted else f"{type(error).__name__}: {error}"
        write_report(run, stopped=reason if raised is error else str(raised))
        if raised is error:
            raise
        raise raised from None


def _restore(run: Run) -> int:
    """Restores the newest checkpoint, if there is one; returns the number of finished epochs."""
    epoch = run.checkpoints.restore()
    if in_several_processes(run.strategy):  # in a single process, `fit` initialises
        initialize_from(run.trainer, run.slice_of_training())
        check_same_in_all(run.strategy, {"checkpoint": f"epoch {epoch}"})
    if epoch:
        print(f"Resuming after epoch {epoch}.", flush=True)
    return epoch


def _score_start(run: Run) -> None:
    """Scores the model that a run starts from, as epoch 0, so that training cannot make it worse."""
    scores = HeldOut(run, run.trainer).scores()
    run.checkpoints.save_start(scores)
    said = (f"{name} {tables.bpd_text(*score)} bpd" for name, score in scores.items())
    print(f"Untouched: {' · '.join(said)}", flush=True)


def _fit(run: Run, first: int, others: Callbacks) -> None:
    """Trains from an epoch on (from 0), each epoch in its phase; calls `others` last."""
    trainer, result = run.trainer, EpochResult()
    # Each reads what those before it have filled in; the checkpoint comes when all else is on the disk.
    callbacks = [run_callbacks.FillPrefixCaches(run, result), run_callbacks.EpochRecord(run, result)]
    if run.config.sample_every and run.is_chief:
        callbacks.append(run_callbacks.SampleGrid(run, result))
    if run.config.tensorboard and run.is_chief:
        callbacks.append(run_callbacks.TensorBoardByPart(run, result))
    callbacks.append(run_callbacks.SaveCheckpoints(run, result))
    if run.is_chief:
        callbacks.append(run_callbacks.Progress(run, result))
    whole = [*callbacks, *others, run_callbacks.WholeEpochs()]
    with OneTraining(whole, trainer, len(run.phases), run.steps_per_epoch) as given:
        for epoch, phase in enumerate(run.phases[first:], start=first):
            trainer.set_phase(phase)
            trainer.fit(
                run.training_batches(epoch),
                initial_epoch=epoch,
                epochs=epoch + 1,
                steps_per_epoch=run.steps_per_epoch,
                callbacks=given,
                verbose=0,
            )
            if trainer.stop_training:
                break
