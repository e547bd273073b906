"""Peak memory of one phase, for steps.py; measured in a process that does nothing else."""

import ctypes
import dataclasses
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from glow_tf import RunConfig
from lab.planning.calibrate import every_phase, make_trainer, repeated

STEPS = 3


def measure_in_this_process(config: RunConfig, precision: str, request: str) -> dict[str, float]:
    """Runs a few steps of one phase.

    Args:
      config: model and batch size.
      precision: of the coupling networks.
      request: JSON with `phase`, its name, and `image_shape`.

    Returns:
      `seconds` per step; `peak_mb`, the most memory that the process held during a step; `activations_mb`,
      the peak without the gradients and without the memory held before (variables, optimizer slots, code).
    """
    wanted = json.loads(request)
    model = dataclasses.replace(config.model, image_shape=tuple(wanted["image_shape"]))
    trainer = make_trainer(dataclasses.replace(config, model=model), precision)
    (phase,) = [p for p in every_phase(len(trainer.glow.parts)) if str(p) == wanted["phase"]]
    rng = np.random.default_rng(0)

    def steps_of(batch_size: int) -> Callable[[int], float]:
        shape = (batch_size, *wanted["image_shape"])
        images = tf.constant(rng.integers(0, 256, shape, np.uint8))
        noise = tf.constant(rng.uniform(size=shape), tf.float32)
        dataset = tf.data.Dataset.from_tensors((images, noise)).repeat()
        steps = iter(trainer.distribute_strategy.experimental_distribute_dataset(dataset))
        return repeated(lambda: trainer.train_function(steps))

    trainer.initialize(rng.integers(0, 256, (16, *wanted["image_shape"]), np.uint8))
    trainer.set_phase(phase)
    # The smallest batch comes first: it loads code, graph and gradients, but hardly any activations. Memory
    # after a full step is no baseline, because the allocator may keep what the step frees.
    steps_of(trainer.distribute_strategy.num_replicas_in_sync)(1)
    before = _start_of_peak_mb()
    run = steps_of(config.train.batch_size)
    run(1)  # traces
    seconds = run(STEPS)
    peak = _peak_mb()
    gradients = 4e-6 * sum(
        math.prod(v.shape) for group in trainer.forward_pass.trained_variables(phase) for v in group
    )
    return {"seconds": seconds, "peak_mb": peak, "activations_mb": peak - before - gradients}


def measure_in_fresh_process(
    program: str, arguments: list[str], phase: str, image_shape: tuple[int, ...], *more: str
) -> dict[str, float]:
    """Calls `measure_in_this_process` in a new process.

    Args:
      program: of the benchmark, a module.
      arguments: its flags.
      phase: name of the phase.
      image_shape: (H, W, C).
      *more: flags that follow and win.

    Raises:
      OSError: the process failed.
    """
    request = json.dumps({"phase": phase, "image_shape": image_shape})
    result = subprocess.run(
        [sys.executable, "-m", program, *arguments, *more, f"--memory_of={request}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise OSError(f"measuring the memory of {phase} failed: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def _start_of_peak_mb() -> float:
    """Resets the peak; returns the memory that the process holds now, on a GPU what it has allocated."""
    if tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        return tf.config.experimental.get_memory_info("GPU:0")["current"] / 1e6
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024 / 1e6
