"""A training run from its configuration to its summary."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.config import MAY_DIFFER, RunConfig
from glow_tf.core.errors import DivergedError
from glow_tf.devices import strategies
from glow_tf.devices.broken import naming_the_taken_address, naming_who_is_lost
from glow_tf.devices.liveness import check_addresses
from glow_tf.devices.meeting import meet
from glow_tf.devices.part_processes import release_others, serve
from glow_tf.devices.processes import ProcessGroup, is_chief, read_process_group
from glow_tf.devices.stall import stall_watch
from glow_tf.devices.streams import cores_per_process, set_up_process
from glow_tf.devices.workers import follow_first_worker, in_several_processes, watched_workers
from glow_tf.layout.schedule import phases_of
from glow_tf.run import callbacks as run_callbacks
from glow_tf.run import recovery, tables
from glow_tf.run.context import Run, prepare
from glow_tf.run.epoch import EpochResult
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.workdir import SUMMARY, Workdir
from glow_tf.run.finish import Exporter, finish, trained_model, troubles_ahead
from glow_tf.run.held_out import HeldOut, loses_patience
from glow_tf.run.interrupts import Interrupts, interrupts_of_run
from glow_tf.run.progress import Progress
from glow_tf.run.report.writing import write_report
from glow_tf.training.feed.batch import initialize_from

Callbacks = Sequence[keras.callbacks.Callback]


def train(config: RunConfig, export: Exporter, callbacks: Callbacks = ()) -> Mapping[str, Any]:
    """Trains a Glow as configured, or resumes the run in its workdir; returns its summary.

    A run, finished or not, may get other numbers of epochs (see `epochs_obstacle`). A new run may start from
    the model of another one (`init_from`).

    Everything that can be wrong with the configuration, the data and the disk is found before training.

    With several processes (see `read_process_group`) process 0 has the workdir and returns the summary. Under
    `part_parallel` the other processes lend process 0 their devices until it ends. Under `multi_worker` they
    do what process 0 does, but write nothing.

    Args:
      config: the run.
      export: writes a model to a folder, as `glow_tf.export` does; called at the end if `config.export`.
      callbacks: of `PartsTrainer.fit`, after the run's own. One that stops training stops it at the end of
        the epoch. A run that goes back calls `fit` again, with the same ones. The processes that lend their
        devices to process 0 do not call them.

    Raises:
      ConfigError: something is wrong with the settings, the data or the disk; nothing was trained.
      OSError: the disk, or another process, failed; the message says what is kept.
      DivergedError: training diverged, also after going back; the message says what is kept.
      KeyboardInterrupt: Ctrl-C or SIGTERM; the message says which epoch, or which step of it, is kept.
    """
    group = read_process_group(config.strategy)
    if group is not None and not config.insecure_network:
        check_addresses(group)
    if is_chief(group):
        return _train_in(Workdir(config), group, export, callbacks)
    if group.job == "part":
        serve(group, cores_per_process(group.processes_here))
        return {}
    with tempfile.TemporaryDirectory() as folder:
        unseen = dataclasses.replace(config, workdir=folder, tensorboard=False, sample_every=0, export=False)
        _train_in(Workdir(unseen), group, export, callbacks)
    return {}


def _train_in(
    workdir: Workdir, group: ProcessGroup | None, export: Exporter, callbacks: Callbacks
) -> Mapping[str, Any]:
    start = time.monotonic()
    try:
        finished = workdir.read_summary()
        if not finished:
            workdir.config.train.check_meetings()
            workdir.check_progress()
            workdir.check_place_of_export()
        if group is not None and group.job == "worker":
            workdir.config, finished = agree(group, workdir.config, finished)
        if finished:
            where = f", see {workdir.path / SUMMARY}" if is_chief(group) else ""  # others: a temporary one
            left = len(phases_of(workdir.config)) - finished["epochs"]
            early = f" It ended by patience, {left} epochs early." if left else ""
            print(f"This run is finished: test {finished['test_bpd']:.4f} bpd{where}.{early}", flush=True)
            if workdir.config.export and not (workdir.path / "export").exists():
                print(f"It has no export; glow-tf export --model={workdir.path} writes one.", flush=True)
            if group is not None and group.job == "part":
                release_others(group)
            return finished
        with naming_who_is_lost(group):
            with naming_the_taken_address(group):
                strategy = _set_up(workdir.config, group)
            with interrupts_of_run() as interrupts, watched_workers(group):
                message = "Setting up has gone on for {} s. The other processes: {}"
                with stall_watch(group, message, connected=in_several_processes(strategy)):
                    run = prepare(workdir.config, workdir, group, strategy)
                return _train(run, interrupts, export, callbacks, start)
    except KeyboardInterrupt:
        if not is_chief(group):  # its workdir is a temporary one
            raise
        raise KeyboardInterrupt(workdir.kept()) from None
    finally:
        workdir.close()


def agree(
    group: ProcessGroup, config: RunConfig, summary: Mapping[str, Any] | None
) -> tuple[RunConfig, Mapping[str, Any] | None]:
    """Meets the other workers; returns this one's run, and worker 0's summary, if it has one.

    Worker 0 may go on with a run that has chosen what the others, without its workdir, leave open.
    """
    settings = config.to_settings()
    # With these all stop, or save, after the same step.
    may_differ = MAY_DIFFER - {"max_skipped_steps", "on_divergence", "checkpoint_minutes", "patience"}
    own = {n: None if n in config.undecided else v for n, v in settings.items() if n not in may_differ}
    of_first, summary = meet(group, own, summary)
    if taken := {name: of_first[name] for name in config.undecided if of_first[name] is not None}:
        config = RunConfig.from_settings(settings | taken, [n for n in config.left_open if n not in taken])
    return config, summary


def _set_up(config: RunConfig, group: ProcessGroup | None) -> tf.distribute.Strategy:
    """Sets up this process, and returns the strategy of the run."""
    if group is not None:  # with several processes, TensorFlow traces anew to save, each time, and warns
        tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    # Where parts have their own devices, the parts run side by side, not pieces of a batch.
    streams = 1 if config.strategy == "part_parallel" else config.streams
    set_up_process(
        config.train.batch_size,
        streams,
        reversible=config.train.reversible,
        processes=0 if group is None else group.processes_here,
        slices=len(group.addresses) if config.strategy == "multi_worker" else 1,
    )
    strategy = strategies.make_strategy(config.strategy, config.virtual_devices)
    strategies.check_batch_size(config.train.batch_size, strategy)
    return strategy


def _train(
    run: Run, interrupts: Interrupts, export: Exporter, callbacks: Callbacks, start: float
) -> Mapping[str, Any]:
    sentences = [*troubles_ahead(run), *strategies.slow_compilation(run.config.compiles)]
    warnings = (f"WARNING: {sentence}." for sentence in sentences)
    print(run.heading, run.description, *warnings, sep="\n", flush=True)
    with stall_watch(run.group) as happened:
        epoch = _restore(run)
        with _saying_what_is_kept(run):
            if run.config.init_from and len(run.images.validation) and not (epoch or run.checkpoints.steps):
                _score_start(run)
            if epoch < len(run.phases) and not loses_patience(run, epoch):
                tell = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: happened())
                others = [tell, *callbacks]
                recovery.fit_and_recover(run, epoch, lambda first: _fit(run, first, interrupts, others))
            is_used = run.config.export or run.workdir.best_epoch is not None
            trained = trained_model(run) if run.is_chief and is_used else None
    with _saying_what_is_kept(run):
        result = finish(run, trained, export, start) if run.is_chief else {}
    with stall_watch(run.group):
        follow_first_worker(run.strategy, [])  # no worker ends before the first has written everything
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
            raised = recovery.with_sentence(error, kept)
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
    run.checkpoints.restore()
    if in_several_processes(run.strategy):  # in a single process, `fit` initialises
        initialize_from(run.trainer, run.slice_of_training())
        run.checkpoints.share()
    epoch, step = int(run.checkpoints.epochs), int(run.checkpoints.steps)
    if epoch or step:
        print(f"Resuming after {checkpoint_files.name(epoch, step)}.", flush=True)
    return epoch


def _score_start(run: Run) -> None:
    """Scores the model that a run starts from, as epoch 0, so that training cannot make it worse."""
    scores = HeldOut(run, run.trainer).scores()
    run.checkpoints.save_start(scores)
    said = (f"{name} {tables.bpd_text(*score)} bpd" for name, score in scores.items())
    print(f"Untouched: {' · '.join(said)}", flush=True)


def _fit(run: Run, epoch: int, interrupts: Interrupts, others: Callbacks) -> None:
    """Trains from an epoch on (from 0), or from the step after it that was restored; calls `others` last."""
    checkpoints = run.checkpoints
    step = int(checkpoints.steps)
    result = EpochResult(recoveries=int(checkpoints.recoveries), seconds=float(checkpoints.seconds))
    # Each reads what those before it have filled in; the checkpoint comes when all else is on the disk.
    callbacks = [run_callbacks.FillPrefixCaches(run, result), run_callbacks.EpochRecord(run, result)]
    if run.config.sample_every:
        callbacks.append(run_callbacks.SampleGrid(run, result))
    if run.config.tensorboard:
        callbacks.append(run_callbacks.TensorBoardByPart(run, result))
    callbacks.append(run_callbacks.SaveCheckpoints(run, result, interrupts))
    if run.is_chief:
        callbacks.append(Progress(run, result))
    run.trainer.fit(
        run.training_batches(epoch, step),
        epochs=len(run.phases),
        initial_epoch=epoch,
        initial_step=step,
        steps_per_epoch=run.steps_per_epoch,
        callbacks=[*callbacks, *others, run_callbacks.WholeEpochs()],
        verbose=0,
    )
