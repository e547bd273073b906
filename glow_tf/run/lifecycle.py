"""One training run, from its configuration to its SavedModel."""

from __future__ import annotations

import dataclasses
import functools
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import glow_tf
from glow_tf import callbacks, data, distribution, sources, tables
from glow_tf.checkpoints import Checkpoints, checkpoint_bytes
from glow_tf.cluster import (
    Cluster,
    lost,
    lost_message,
    meet,
    read_cluster,
    serve,
    waits_for,
    watched_workers,
)
from glow_tf.config import RunConfig
from glow_tf.export import export
from glow_tf.glow import Glow
from glow_tf.optimizers import make_optimizers
from glow_tf.prefix import PrefixCache, cache_bytes, cached_parts
from glow_tf.progress import Progress, Stalls
from glow_tf.schedule import Phase, epoch_costs, turn_starts
from glow_tf.streams import set_up_process, threads_of
from glow_tf.trainer import PartsTrainer
from glow_tf.workdir import Workdir

# Of checkpoints: the last, the best, the one being written; of the export: about one third of one.
CHECKPOINTS_ON_DISK = 4


def train(config: RunConfig) -> Mapping[str, Any]:
    """Trains a Glow as configured, or resumes the run in its workdir; returns its summary.

    Everything that can be wrong with the configuration, the data and the disk is found before training.

    With several processes (see `read_cluster`) it is process 0 that has the workdir and returns the summary.
    Of parts, the others lend it their devices until it is gone; workers do all that it does, but write
    nothing.

    Raises:
      ConfigError: something is; nothing was trained.
      OSError: the disk, or another process, failed; the last checkpoint is kept.
      NonFiniteError: training diverged; the last checkpoint is kept.
    """
    cluster = read_cluster(config.strategy)
    if _leads(cluster):
        return _train_in(Workdir(config), cluster)
    if cluster.job == "part":
        serve(cluster, threads_of(cluster.processes_here))
        return {}
    with tempfile.TemporaryDirectory() as folder:
        unseen = dataclasses.replace(config, workdir=folder, tensorboard=False, sample_every=0, export=False)
        _train_in(Workdir(unseen), cluster)
    return {}


def _leads(cluster: Cluster | None) -> bool:
    """Whether this process has the workdir: the only one, or the first of several."""
    return cluster is None or not cluster.index


def _train_in(workdir: Workdir, cluster: Cluster | None) -> Mapping[str, Any]:
    try:
        finished = workdir.read_summary()
        if cluster is not None and cluster.job == "worker":
            settings = workdir.config.to_settings()
            same = {name: value for name, value in settings.items() if name not in RunConfig.MAY_DIFFER}
            finished = meet(cluster, same, finished)
        if finished:
            print(
                f"This run is finished: test {finished['test_bpd']:.4f} bpd, see {workdir.path}/summary.json."
            )
            return finished
        strategy = _start(workdir.config, cluster)
        with watched_workers(cluster):
            return _train(workdir.config, workdir, cluster, strategy)
    except (tf.errors.OpError, OSError):
        gone = lost(cluster) if cluster is not None else ""
        if not gone:
            raise
        raise OSError(lost_message(gone)) from None
    finally:
        workdir.close()


def _start(config: RunConfig, cluster: Cluster | None) -> tf.distribute.Strategy:
    # Parts on devices of their own are what runs side by side there.
    streams = 1 if config.strategy == "part_parallel" else config.streams
    set_up_process(
        config.train.batch_size,
        streams,
        reversible=config.train.reversible,
        processes=0 if cluster is None else cluster.processes_here,
        shares=len(cluster.addresses) if config.strategy == "multi_worker" else 1,
    )
    strategy = distribution.make_strategy(config.strategy, config.virtual_devices)
    distribution.check_batch_size(config.train.batch_size, strategy)
    return strategy


def _train(
    config: RunConfig, workdir: Workdir, cluster: Cluster | None, strategy: tf.distribute.Strategy
) -> Mapping[str, Any]:
    # Before the data, which may take long: the other processes wait for this one to come.
    num_parts = len(config.model.flow_step_counts)
    devices = distribution.part_devices(config.strategy, config.part_devices, num_parts, cluster)
    images = data.load(config.data)
    for note in images.notes:
        print(note)
    steps = data.steps_per_epoch(len(images.train), config.train.batch_size)
    phases = config.phases()
    model_config = dataclasses.replace(config.model, image_shape=images.image_shape, seed=config.seed)
    plans = model_config.plans()
    with strategy.scope():
        glow = Glow(model_config, devices, name="glow")
        trainer = PartsTrainer(glow, phases, seed=config.seed)
        optimizers = make_optimizers(config.train, phases, len(plans), steps)
        trainer.compile(
            optimizers,
            clip_norm=config.train.clip_norm,
            reversible=config.train.reversible,
            part_delay=config.train.part_delay,
        )
    if config.train.cache_prefix:
        trainer.prefix_caches = _make_caches(glow, phases, len(images.train))
    workdir.check_space(CHECKPOINTS_ON_DISK * checkpoint_bytes(trainer))
    workdir.claim()

    parameters = [sum(v.value.shape.num_elements() for v in p.trainable_variables) for p in glow.parts]
    costs = epoch_costs(plans, phases, config.train.cache_prefix)
    summary = tables.model_table(plans, parameters, phases, costs)
    print(_heading(config, images, steps, strategy), summary, sep="\n", flush=True)

    checkpoints = Checkpoints(workdir.path / "checkpoints", trainer)
    checkpoints.restore()
    if distribution.in_several_processes(strategy):  # in one, `fit` does the first, and nothing follows
        batch_size, seed, augment = config.train.batch_size, config.seed, config.data.augment
        trainer.initialize_from(data.training_batches(images.train, batch_size, seed, augment=augment))
        distribution.follow_first_worker(strategy, checkpoints.variables)
    epoch = int(checkpoints.epochs)
    if epoch:
        print(f"Resuming after epoch {epoch}.", flush=True)
        found = len(workdir.read_history(epoch))
        if _leads(cluster) and found != epoch:
            raise OSError(
                f"history.csv must have a row for each of the {epoch} epochs that the checkpoint has "
                f"finished. Received: {found} rows in {workdir.path / 'history.csv'}"
            )
    if epoch < len(phases):
        _fit(config, workdir, trainer, checkpoints, images, steps, epoch, summary, costs, cluster)
    result = _finish(config, workdir, glow, sum(parameters), costs) if _leads(cluster) else {}
    distribution.follow_first_worker(strategy, [])  # none goes before the first has written all
    return result


def _fit(
    config: RunConfig,
    workdir: Workdir,
    trainer: PartsTrainer,
    checkpoints: Checkpoints,
    images: data.ImageData,
    steps: int,
    epoch: int,
    summary: str,
    costs: Sequence[float],
    cluster: Cluster | None,
) -> None:
    batch_size, seed, augment = config.train.batch_size, config.seed, config.data.augment
    turns = turn_starts(trainer.phases)
    cached = [e for e in range(len(turns)) if trainer.phases[e] in trainer.prefix_caches]
    noise_epochs = [turns[e] if e in cached else e for e in range(len(turns))]

    def training(share: data.Share) -> tf.data.Dataset:
        return data.training_batches(
            images.train,
            batch_size,
            seed,
            augment=augment,
            first_epoch=epoch,
            noise_epochs=noise_epochs,
            share=share,
        )

    def evaluation(examples: np.ndarray) -> Any:
        make = functools.partial(data.evaluation_batches, examples, batch_size, seed)
        return distribution.spread(strategy, lambda share: make(share=share))

    strategy = trainer.distribute_strategy
    batches = distribution.spread(strategy, training)
    fill = callbacks.FillPrefixCaches(
        turns, lambda turn: data.prefix_batches(images.train, batch_size, seed, turn, augment=augment)
    )
    test = evaluation(images.test)
    validation = evaluation(images.validation) if len(images.validation) else None
    listeners: list[keras.callbacks.Callback] = [
        fill,
        callbacks.EpochRecord(
            workdir, steps * batch_size, test, validation, finished_epochs=epoch, caches=fill
        ),
    ]
    grid = None
    if config.sample_every:
        grid = callbacks.SampleGrid(workdir, config.sample_every, seed, top=int(images.train.max()))
        listeners.append(grid)
    if config.tensorboard:
        listeners.append(callbacks.TensorBoardByPart(workdir, summary, grid))
    if _leads(cluster):
        listeners += [callbacks.CheckpointEveryEpoch(checkpoints), Progress(costs)]
    if cluster is not None:
        listeners.append(Stalls(functools.partial(waits_for, cluster)))
    trainer.fit(
        batches,
        epochs=len(trainer.phases),
        initial_epoch=epoch,
        steps_per_epoch=steps,
        callbacks=listeners,
        verbose=0,
    )


def _make_caches(glow: Glow, phases: Sequence[Phase], examples: int) -> dict[Phase, PrefixCache]:
    parts = cached_parts(phases)
    size = cache_bytes(glow.config.plans(), parts, examples)
    names = ", ".join(str(k + 1) for k in parts)
    sources.check_memory(size, f"what is frozen before part {names}", "train without --cache_prefix")
    print(f"cache_prefix: what is frozen before part {names} takes {size / 1e6:.0f} MB of memory")
    return {Phase("part", (k,)): PrefixCache(glow, k, examples) for k in parts}


def _finish(
    config: RunConfig, workdir: Workdir, glow: Glow, parameters: int, costs: Sequence[float]
) -> Mapping[str, Any]:
    history = workdir.read_history()
    last = history[-1]
    if config.export:
        # A copy outside of any strategy: a SavedModel has no replicas.
        plain = Glow(glow.config, name=glow.name)
        plain.set_weights(glow.get_weights())
        export(plain, workdir.path / "export")
    summary = {
        "test_bpd": float(last["test_bpd"]),
        "test_bpd_se": float(last["test_bpd_se"]),
        "total_seconds": float(last["total_seconds"]),
        "parameters": parameters,
        "parts": list(glow.config.flow_step_counts),
        "epochs": len(history),
        "versions": _versions(),
        "device": distribution.device_name(),
    }
    workdir.write_summary(summary)
    print(tables.closing_table(history, len(glow.parts), costs))
    print(
        f"Finished: test {summary['test_bpd']:.4f} ± {summary['test_bpd_se']:.4f} bits/dim (one noise draw "
        f"a test image: an upper bound in expectation), {summary['total_seconds']:.1f} s of training, in "
        f"{workdir.path}"
    )
    return summary


def _heading(config: RunConfig, images: data.ImageData, steps: int, strategy: tf.distribute.Strategy) -> str:
    shape = "×".join(map(str, images.image_shape))
    validation = f" + {len(images.validation)} validation" if len(images.validation) else ""
    return (
        f"{config.data.dataset}: {len(images.train)} training{validation} + {len(images.test)} test images "
        f"of {shape}, {steps} steps an epoch on {strategy.num_replicas_in_sync} replica(s)"
    )


def _versions() -> dict[str, str]:
    return {
        "glow_tf": glow_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
