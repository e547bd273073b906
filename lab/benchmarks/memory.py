"""How much memory and time does a step take: parts, levels, and what else saves memory?

    taskset -c 0 python -m lab.benchmarks.memory --csv=docs/results/memory.csv
    taskset -c 0 python -m lab.benchmarks.memory --subjects=levels --csv=docs/results/memory_levels.csv
    python -m lab.benchmarks.memory --draw=docs/results/memory.png --csv=docs/results/memory.csv

Glows of 3 blocks, end to end and in parts, each phase of parts by itself; and a Glow beside levels. A row is
a process of its own on one core. `above_mb` is its peak above what it held when TensorFlow was loaded and the
images were there: weights, optimizer and activations. `cpu_ms` is the time of an image, the median of steps.
Rows that are in the CSV are not measured again.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from glow_tf.commands import cli
from lab.benchmarks.rows import added_to, measured, read

KEY = ("subject", "phase", "flow_steps", "side", "crop", "width", "batch")
COLUMNS = (*KEY, "above_mb", "peak_mb", "cpu_ms")
STEPS = 4  # of each of three medians, after as many others
RATE = 1e-6  # noise is the data: nothing is learned
PARTS = {"parts": "across_block:2", "phases": ("part 1", "part 2")}
LEVELS = {"architecture": "levels"}
FRONTIER = {  # settings of a model and of a trainer
    "end to end": {},
    "end to end, recomputed step by step": {"reversible": True},
    "end to end, recomputed block by block": {"parts": "by_block:3", "by_block": True},
    "end to end, half the batch twice": {"halves": 2},
    "two parts": PARTS,
    "two parts, recomputed step by step": {**PARTS, "reversible": True},
    "four parts": {"parts": "across_block:4", "phases": ("part 1", "part 2", "part 3", "part 4")},
}
SIZES = [(steps, 32) for steps in (8, 16, 32, 64)] + [(8, side) for side in (64, 128, 256)]
BESIDE_LEVELS = {
    "Glow 3 x 8, end to end": {},
    "Glow 3 x 8, end to end, recomputed": {"reversible": True},
    "levels 8, 4, 4, 4": {**LEVELS, "phases": ("simultaneous", "part 1", "part 2")},
}
OF_LEVELS = ((32, 0, 64, 8), (32, 0, 256, 8), (256, 0, 64, 2), (256, 64, 64, 2))


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_enum("subjects", "parts", ["parts", "levels"], "Of a Glow, or beside levels.", **own)
    flags.DEFINE_string("csv", "memory.csv", "To add to.", **own)
    flags.DEFINE_string("draw", "", "A PNG of the rows of parts; nothing is measured.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures each phase in a process of its own, and adds it to the CSV; or draws what that has."""
    fresh, known = multiprocessing.get_context("spawn"), measured(given.csv, KEY)
    if given.draw:
        _draw(given.csv, given.draw)
        return
    with added_to(given.csv, COLUMNS) as add:
        for row, settings in _rows(given.subjects):
            if tuple(map(str, row)) not in known:
                with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                    numbers = pool.submit(_measure, settings, *row[1:]).result()
                add([*row, *(f"{number:.1f}" for number in numbers)])
                print(*row, *(f"{number:.1f}" for number in numbers), flush=True)


def _rows(subjects: str) -> list[tuple[tuple, dict[str, Any]]]:
    """Returns `KEY` and settings of every row."""
    if subjects == "parts":
        sizes = [(steps, side, 0, 64, 1024 // side) for steps, side in SIZES]
        chosen = FRONTIER
    else:
        sizes, chosen = [(8, *size) for size in OF_LEVELS], BESIDE_LEVELS
    return [
        ((name, phase, *size), settings)
        for size in sizes
        for name, settings in chosen.items()
        for phase in settings.get("phases", ("end_to_end",))
        if not size[2] or "architecture" in settings
    ]


def _measure(
    settings: Mapping[str, Any], phase: str, flow_steps: int, side: int, crop: int, width: int, batch: int
) -> tuple[float, float, float]:
    """Trains a few steps: returns the peak above the start, the peak, in MB, and milliseconds per image."""
    import keras

    import glow_tf
    from glow_tf import data

    images = np.random.default_rng(0).integers(0, 256, (batch * STEPS, side, side, 3)).astype(np.uint8)
    halves = settings.get("halves", 1)
    batches = data.training_batches(images, batch // halves, 0, crop=data.Crop(crop, 8))
    before = _megabytes()
    of_model = {name: settings[name] for name in ("architecture", "parts") if name in settings}
    config = glow_tf.ModelConfig((side, side, 3), flow_steps=flow_steps, width=width, **of_model)
    accumulated = halves if halves > 1 else None
    optimizer = keras.optimizers.Adamax(RATE, gradient_accumulation_steps=accumulated)
    flow = glow_tf.Flow(config)
    if settings.get("by_block"):
        flow.initialize(images[:batch])
        step = step_by_block(flow, optimizer)

        def run(epoch: int) -> None:
            for k in range(STEPS):
                step(images[k * batch : (k + 1) * batch])
    else:
        trainer = glow_tf.PartsTrainer(flow)
        recomputes = settings.get("reversible", False)
        trainer.compile(
            optimizer, phases=[_phase(phase, len(flow.parts))], reversible=recomputes, rate_scaling="none"
        )
        trainer.initialize(images[:batch, : crop or side, : crop or side])

        def run(epoch: int) -> None:
            trainer.fit(
                batches,
                steps_per_epoch=STEPS * halves,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
            )

    times = []
    for epoch in range(4):
        start = time.process_time()
        run(epoch)
        times.append((time.process_time() - start) * 1e3 / (STEPS * batch))
    return _megabytes() - before, _megabytes(), float(np.median(times[1:]))


def _phase(name: str, num_parts: int) -> Any:
    from glow_tf.architectures import schedule

    kind, _, number = name.partition(" ")
    return schedule.one_part(int(number) - 1) if number else getattr(schedule, kind)(num_parts)


def step_by_block(flow: Any, optimizer: Any) -> Callable[[Any], Any]:
    """Returns an end-to-end step that keeps what crosses the cuts, and runs each part once more backward.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174, with the parts as segments.
    """
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, *flow.image_shape], tf.uint8)])
    def step(images: tf.Tensor) -> None:
        gradients = gradients_by_block(flow, flow.enter(images, 0.5))
        optimizer.apply_gradients(gradients)

    return step


def gradients_by_block(flow: Any, passage: Any) -> list[tuple[Any, Any]]:
    """Returns gradients of the mean negative log-likelihood, nats, with the variables of the flow."""
    import tensorflow as tf

    from glow_tf.bijectors.mode import Mode

    mode, entering, found = Mode(training=True), [passage], []
    for k in range(len(flow.parts) - 1):
        entering.append(flow.through_part(k, entering[-1], mode)[0])
    of_next: list[tf.Tensor] = []
    for k in reversed(range(len(flow.parts))):
        part, is_last = flow.parts[k], k == len(flow.parts) - 1
        variables = list(part.trainable_variables if is_last else part.flow_variables)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with tf.control_dependencies(of_next):  # or TensorFlow runs it at once, and keeps what it makes
                h = tf.identity(entering[k].h)
            tape.watch([h, *(v.value for v in variables)])
            after, view = flow.through_part(k, entering[k]._replace(h=h), mode)
            nats = view.truncated_nll if is_last else -view.log_likelihood_term
            results = [tf.reduce_mean(nats)] if is_last else [tf.reduce_mean(nats), after.h]
        of_own = tape.gradient(
            results, [h, *(v.value for v in variables)], [tf.ones_like(results[0]), *of_next]
        )
        of_next = of_own[:1]
        found += zip(of_own[1:], variables, strict=True)
    return found


def steps_of(rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[float, float]]:
    """Returns the milliseconds, mean of phases, and the MB, most of any phase, of each subject of a size."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return {
        name: (np.mean([float(row["cpu_ms"]) for row in own]), max(float(row["above_mb"]) for row in own))
        for name, own in found.items()
    }


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Returns the subjects that no other beats in both, from the fastest to the smallest."""
    best, least = [], float("inf")
    for name, (_, size) in sorted(points.items(), key=lambda item: item[1]):
        if size < least:
            best.append(name)
            least = size
    return best


def _draw(table: str, path: str) -> None:
    from lab.studies.figures import plt, write_png

    rows = read(table)
    sizes = dict.fromkeys((row["flow_steps"], row["side"]) for row in rows)
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    for axis, (steps, side) in zip(axes.flat, sizes, strict=False):
        points = steps_of([row for row in rows if (row["flow_steps"], row["side"]) == (steps, side)])
        for name, (ms, mb) in points.items():
            axis.plot(ms, mb, "o" if name.startswith("end") else "s", label=name)
        best = frontier(points)
        axis.plot(*zip(*(points[name] for name in best), strict=True), color="grey", linewidth=0.8, zorder=0)
        axis.set_title(f"3 × {steps} flow steps, {side} × {side}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.25)
    figure.supxlabel("CPU milliseconds per image of a step, mean of phases")
    figure.supylabel("MB above the start, most of any phase")
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    write_png(figure, pathlib.Path(path))


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
