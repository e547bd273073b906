"""Times everything against its floor, interleaved in one process: steps, phases, sampling, scoring, input.

    python train/benchmark.py --flagfile=configs/cifar10_small_across_2.cfg --data_dir=PATH \
        --precisions=float32,mixed_bfloat16 [--peers] [--memory] [--depths=4,8,16] [--output=FOLDER]

The flags are those of main.py (the schedule is not used: every phase that the parts allow is timed). Subjects
take turns, `--timed_steps` runs at a time, `--rounds` times over, so that a drift of the machine's speed
meets all of them; ratios are medians over rounds. Memory is measured in fresh processes.
"""

import os
import pathlib
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import csv
import dataclasses
import json

import benchmark_memory
import benchmark_plots
import benchmark_subjects
import flags_of_run
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from benchmark_subjects import Subject

from glow_tf import ConfigError, RunConfig, data, distribution, tables
from glow_tf.partition import relative_cost, relative_cost_from_seconds
from glow_tf.streams import set_up_process

flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)  # so that --help lists them
TIMED_STEPS = flags.DEFINE_integer("timed_steps", 3, "Runs of a subject in its turn.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of every subject.", lower_bound=1)
PRECISIONS = flags.DEFINE_list("precisions", ["float32"], "float32 and/or mixed_bfloat16.")
ONLY = flags.DEFINE_list("only", [], "Only subjects whose names contain one of these.")
PEERS = flags.DEFINE_boolean("peers", False, "Also time normflows and tfp.bijectors.Glow, where installed.")
MEMORY = flags.DEFINE_boolean("memory", False, "Measure each phase's peak memory instead of its time.")
DEPTHS = flags.DEFINE_list("depths", [], "Measure time and memory at these flow_steps instead.")
OUTPUT = flags.DEFINE_string("output", "", "Folder for the table as CSV and for plots; empty writes none.")
MEMORY_OF = flags.DEFINE_string("memory_of", "", "Internal: the phase that a fresh process measures.")


def main(argv: list[str]) -> int:
    """Prints the tables that the flags ask for."""
    logging.set_verbosity(logging.ERROR)
    tf.get_logger().setLevel("ERROR")  # many functions are traced, on purpose
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        unknown = set(PRECISIONS.value) - {"float32", "mixed_bfloat16"}
        if unknown or not PRECISIONS.value:
            raise ConfigError(
                f"precisions must be float32 and/or mixed_bfloat16. Received: {PRECISIONS.value}"
            )
        config = flags_of_run.run_config()
        if config.strategy == "part_parallel":
            raise ConfigError(
                "strategy must be another: benchmark_strategies.py times parts on devices of their own. "
                "Received: strategy='part_parallel'"
            )
        train = config.train
        count = set_up_process(train.batch_size, config.streams, reversible=train.reversible)
        if MEMORY_OF.value:
            result = benchmark_memory.measure_in_this_process(config, PRECISIONS.value[0], MEMORY_OF.value)
            print(json.dumps(result))
            return 0
        images = data.load(config.data).train
        model = dataclasses.replace(config.model, image_shape=images.shape[1:])
        config = dataclasses.replace(config, model=model)
        print(f"{distribution.device_name()}; batch {config.train.batch_size}; streams: {count}")
        if DEPTHS.value:
            against_depth(config, [int(depth) for depth in DEPTHS.value])
        elif MEMORY.value:
            memory_of_phases(config)
        else:
            times(config, images)
    except (ConfigError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def times(config: RunConfig, images: np.ndarray) -> None:
    """Times the subjects in turn."""
    subjects = [
        subject
        for precision in PRECISIONS.value
        for subject in benchmark_subjects.flow_subjects(config, images, precision)
    ]
    subjects.append(benchmark_subjects.pipeline_subject(config, images))
    if PEERS.value:
        import benchmark_peers

        subjects += benchmark_peers.peer_subjects(config.model, images[: config.train.batch_size])
    if ONLY.value:
        subjects = [s for s in subjects if any(part in s.name for part in ONLY.value)]
    for subject in subjects:
        subject.measure(1)  # traces and warms up
    rounds = [[s.measure(TIMED_STEPS.value) for s in subjects] for _ in range(ROUNDS.value)]
    seconds = dict(zip(subjects, zip(*rounds, strict=True), strict=True))
    rows = [_row(config, subject, seconds) for subject in subjects]
    header = [
        "precision",
        "what",
        "ms",
        "range",
        "images/s",
        "GFLOP/s",
        "/ floor",
        "/ end to end",
        "predicted",
    ]
    header.append("from blocks")
    print(f"medians of {ROUNDS.value} rounds of {TIMED_STEPS.value} runs")
    _report("times", header, rows)
    if OUTPUT.value:
        benchmark_plots.bars(rows, pathlib.Path(OUTPUT.value) / "times.png")


def _row(config: RunConfig, subject: Subject, seconds: dict[Subject, tuple[float, ...]]) -> list[str]:
    own = seconds[subject]
    middle = statistics.median(own)
    batch_size = config.train.batch_size

    def ratio(name: str) -> str:
        others = [t for s, t in seconds.items() if (s.name, s.precision) == (name, subject.precision)]
        if not others or subject.block or not subject.macs:
            return ""
        ratios = [a / b for a, b in zip(own, others[0], strict=True)]
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"

    predicted = from_blocks = ""
    if subject.phase is not None:
        plans = config.model.plans()
        phase = subject.phase
        predicted = f"{relative_cost(plans, phase.active, phase.end_to_end):.3f}"
        blocks: dict[int, list[float]] = {}
        for other, t in seconds.items():
            if other.block and other.precision == subject.precision:
                blocks.setdefault(other.block, []).append(statistics.median(t))
        if len(blocks) == config.model.num_blocks and all(len(pair) == 2 for pair in blocks.values()):
            cost = relative_cost_from_seconds(plans, phase.active, phase.end_to_end, blocks)
            from_blocks = f"{cost:.3f}"
    return [
        subject.precision,
        subject.name,
        f"{1000 * middle:.2f}",
        f"{1000 * min(own):.2f}–{1000 * max(own):.2f}",
        f"{batch_size / middle:.1f}" if not subject.block else "",
        f"{2e-9 * subject.macs / middle:.0f}" if subject.macs else "",
        ratio("floor") if subject.macs else "",
        ratio("step") if subject.phase is not None or subject.name == "step in fit" else "",
        predicted,
        from_blocks,
    ]


def memory_of_phases(config: RunConfig) -> None:
    """Measures the peak of every phase, kept and recomputed activations, each in a fresh process."""
    phases = benchmark_subjects.phases_of(len(config.model.flow_step_counts))
    rows = []
    for precision in PRECISIONS.value:
        for reversible in ("false", "true"):
            kept = "recomputed" if reversible == "true" else "kept"
            wanted = [p for p in phases if not ONLY.value or any(o in f"{kept} {p}" for o in ONLY.value)]
            first = None
            for phase in wanted:
                found = _fresh(
                    phase, config.model.image_shape, f"--precisions={precision}", f"--reversible={reversible}"
                )
                first = first or found
                rows.append(
                    [
                        precision,
                        kept,
                        str(phase),
                        f"{found['peak_mb']:.0f}",
                        f"{found['activations_mb']:.0f}",
                        f"{found['activations_mb'] / first['activations_mb']:.3f}",
                    ]
                )
    header = ["precision", "activations", "phase", "peak MB", "of it activations", "/ first"]
    _report("memory", header, rows)


def against_depth(config: RunConfig, depths: list[int]) -> None:
    """Measures an end-to-end step at several depths, kept and recomputed, each in a fresh process."""
    rows, curves = [], {}
    phase = benchmark_subjects.phases_of(1)[0]
    for precision in PRECISIONS.value:
        for reversible in ("false", "true"):
            label = f"{precision}, {'recomputed' if reversible == 'true' else 'kept'}"
            if ONLY.value and not any(o in label for o in ONLY.value):
                continue
            found = [
                _fresh(
                    phase,
                    config.model.image_shape,
                    f"--precisions={precision}",
                    f"--reversible={reversible}",
                    f"--flow_steps={depth}",
                    "--parts=1",
                )
                for depth in depths
            ]
            curves[label] = (depths, found)
            seconds = [f["seconds"] for f in found]
            r_squared = np.corrcoef(depths, seconds)[0, 1] ** 2 if len(depths) > 2 else float("nan")
            for depth, f in zip(depths, found, strict=True):
                rows.append(
                    [
                        label,
                        f"{depth}",
                        f"{1000 * f['seconds']:.0f}",
                        f"{f['activations_mb']:.0f}",
                        f"{f['activations_mb'] / found[0]['activations_mb']:.2f}",
                        f"{r_squared:.4f}",
                    ]
                )
    header = ["activations", "flow steps", "ms/step", "activations MB", "/ first", "R² of time"]
    _report("depth", header, rows)
    if OUTPUT.value:
        benchmark_plots.against_depth(curves, pathlib.Path(OUTPUT.value) / "depth.png")


def _fresh(phase: object, image_shape: tuple[int, ...], *more: str) -> dict[str, float]:
    own = [argument for argument in sys.argv[1:] if not argument.startswith("--memory_of")]
    return benchmark_memory.measure_in_fresh_process(__file__, own, str(phase), image_shape, *more)


def _report(name: str, header: list[str], rows: list[list[str]]) -> None:
    print(tables.table(header, rows))
    if OUTPUT.value:
        folder = pathlib.Path(OUTPUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    app.run(main)
