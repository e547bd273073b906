r"""Times steps, phases, sampling, scoring and input against their floor, interleaved in one process.

    python -m lab.benchmarks.steps --flagfile=cifar10_small_across_2 --data_dir=PATH \
        --precisions=float32,mixed_bfloat16 [--peers] [--memory] [--depths=4,8,16] [--output=FOLDER]

The other flags are those of `glow-tf train`. Without any of them, the model of the config `quickstart` is
timed on the digits. The schedule is not used: every phase that the parts allow is timed. Everything that is
timed takes turns of `--timed_steps` runs, `--rounds` times over, so that a drift of the machine's speed
affects all in the same way. Ratios are medians over rounds. Memory is measured in new processes.
"""

# TensorFlow is imported inside functions, after the runner has set its log level.
from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags, logging

from glow_tf.commands import cli, run_flags
from glow_tf.commands.parsing import parse
from glow_tf.config import PRECISIONS, RunConfig, all_settings
from glow_tf.core.errors import ConfigError
from glow_tf.layout.partition import PartLayout, part_layouts
from glow_tf.layout.schedule import epoch_costs
from glow_tf.run import tables
from glow_tf.run.files.flags_file import as_flags

if TYPE_CHECKING:
    import numpy as np

    from lab.planning.calibrate import Timed

DEFAULT = "quickstart"  # the config that is timed if no flag describes another model
KEPT = {"kept": "false", "recomputed": "true"}  # activations → the flag --reversible
Seconds = Mapping["Timed", Sequence[float]]  # of every round


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags and those of a run."""
    own = {"flag_values": values}
    flags.DEFINE_integer("timed_steps", 3, "Runs in each turn.", lower_bound=1, **own)
    flags.DEFINE_integer("rounds", 7, "Turns of everything that is timed.", lower_bound=1, **own)
    flags.DEFINE_list("precisions", ["float32"], f"One or more of {', '.join(PRECISIONS)}.", **own)
    flags.DEFINE_list("only", [], "Only rows whose names contain one of these.", **own)
    flags.DEFINE_boolean("peers", False, "Also time normflows and tfp.bijectors.Glow, if installed.", **own)
    flags.DEFINE_boolean("memory", False, "Measure each phase's peak memory instead of its time.", **own)
    flags.DEFINE_list("depths", [], "Measure time and memory at these flow_steps instead.", **own)
    flags.DEFINE_string("output", "", "Folder for the table as CSV and for plots; empty writes none.", **own)
    flags.DEFINE_string("memory_of", "", "Internal: the phase that a new process measures.", **own)
    run_flags.define(values)
    values.set_default("workdir", "unused")  # a benchmark has no workdir


def main(values: flags.FlagValues) -> None:
    """Prints the tables that the flags ask for."""
    config = _config(values)
    depths = _depths(values)
    import tensorflow as tf

    from glow_tf import data
    from glow_tf.devices.strategies import device_name
    from glow_tf.devices.streams import set_up_process

    logging.set_verbosity(logging.ERROR)
    tf.get_logger().setLevel("ERROR")  # many functions are traced, on purpose
    train = config.train
    count = set_up_process(train.batch_size, config.streams, reversible=train.reversible)
    if values.memory_of:
        from lab.benchmarks import memory

        print(json.dumps(memory.measure_in_this_process(config, values.precisions[0], values.memory_of)))
        return
    images = data.load(config.data).train
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, image_shape=images.shape[1:])
    )
    print(f"{device_name()}; batch {train.batch_size}; streams: {count}")
    if depths:
        against_depth(config, values, depths)
    elif values.memory:
        memory_of_phases(config, values)
    else:
        times(config, values, images)


def _config(values: flags.FlagValues) -> RunConfig:
    if not values.precisions or set(values.precisions) - set(PRECISIONS):
        raise ConfigError(f"precisions must be {' and/or '.join(PRECISIONS)}. Received: {values.precisions}")
    if not any(values[setting.name].present for setting in all_settings()):
        parse(values, [f"--flagfile={DEFAULT}"])
    config = run_flags.run_config(values)
    if config.strategy == "part_parallel":
        raise ConfigError(
            "strategy must be another one: lab.benchmarks.strategies times parts on their own devices. "
            "Received: strategy='part_parallel'"
        )
    return config


def _depths(values: flags.FlagValues) -> list[int]:
    if not all(text.isdigit() and int(text) for text in values.depths):
        raise ConfigError(f"depths must be positive integers. Received: {values.depths}")
    return [int(text) for text in values.depths]


def times(config: RunConfig, values: flags.FlagValues, images: np.ndarray) -> None:
    """Times everything, interleaved, and prints the table."""
    from lab.benchmarks import subjects

    everything = [
        timed for precision in values.precisions for timed in subjects.timed_flow(config, images, precision)
    ]
    everything.append(subjects.timed_pipeline(config, images))
    if values.peers:
        from lab.benchmarks import peers

        everything += peers.timed_peers(config.model, images[: config.train.batch_size])
    if values.only:
        everything = [timed for timed in everything if any(part in timed.name for part in values.only)]
    for timed in everything:
        timed.measure(1)  # traces and warms up
    rounds = [[timed.measure(values.timed_steps) for timed in everything] for _ in range(values.rounds)]
    seconds = dict(zip(everything, zip(*rounds, strict=True), strict=True))
    rows = [_row(config, timed, seconds) for timed in everything]
    print(f"medians of {values.rounds} rounds of {values.timed_steps} runs")
    header = ["precision", "what", "ms", "range", "images/s", "GFLOP/s", "/ floor", "/ end to end"]
    _report(values.output, "times", [*header, "predicted", "from blocks"], rows)
    if values.output:
        from lab.benchmarks import plots

        plots.bars(rows, pathlib.Path(values.output) / "times.png")


def _row(config: RunConfig, timed: Timed, seconds: Seconds) -> list[str]:
    own = seconds[timed]
    middle = statistics.median(own)
    is_step = timed.phase is not None or timed.name == "step in fit"
    return [
        timed.precision,
        timed.name,
        f"{1000 * middle:.2f}",
        f"{1000 * min(own):.2f}–{1000 * max(own):.2f}",
        f"{config.train.batch_size / middle:.1f}" if not timed.block else "",
        f"{2e-9 * timed.macs / middle:.0f}" if timed.macs else "",
        _ratio(timed, "floor", seconds),
        _ratio(timed, "step", seconds) if is_step else "",
        *_predictions(config, timed, seconds),
    ]


def _ratio(timed: Timed, name: str, seconds: Seconds) -> str:
    """Returns the time divided by that of `name` in the same precision: median and range over rounds."""
    others = [t for other, t in seconds.items() if (other.name, other.precision) == (name, timed.precision)]
    if not others or timed.block or not timed.macs:
        return ""
    ratios = [a / b for a, b in zip(seconds[timed], others[0], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"


def _predictions(config: RunConfig, timed: Timed, seconds: Seconds) -> tuple[str, str]:
    """Returns a phase's predicted cost relative to end to end: by arithmetic, and by each block's seconds."""
    phase, layouts = timed.phase, part_layouts(config.model)
    if phase is None:
        return "", ""
    predicted = f"{epoch_costs(layouts, [phase])[0]:.3f}"
    blocks: dict[int, list[float]] = {}
    for other, t in seconds.items():
        if other.block and other.precision == timed.precision:
            blocks.setdefault(other.block, []).append(statistics.median(t))
    if len(blocks) < config.model.num_blocks or any(len(pair) != 2 for pair in blocks.values()):
        return predicted, ""
    cost = cost_from_seconds(layouts, phase.active, phase.end_to_end, blocks)
    return predicted, f"{cost:.3f}"


def cost_from_seconds(
    layouts: Sequence[PartLayout],
    trained: Sequence[int],
    end_to_end: bool,
    seconds: Mapping[int, tuple[float, float]],
) -> float:
    """Returns `relative_cost` computed from measured seconds in place of multiply-adds.

    Narrow networks and bfloat16 do not run all blocks at the same speed, so there arithmetic alone is off. A
    flow head's multiply-adds are taken to run as fast as those of its part.

    Args:
      layouts: the parts.
      trained: indices (from 0) of the parts that the phase trains.
      end_to_end: gradients cross the cuts.
      seconds: for each block, from 1, the seconds of one flow step: forward alone, and forward + backward.
    """

    def spent(parts: Sequence[int], direction: int) -> float:
        steps = [e for k in parts for e in layouts[k].elements if e.kind == "flow_step"]
        return sum(seconds[e.block][direction] for e in steps)

    if end_to_end:
        return 1.0
    frozen = [k for k in range(max(trained)) if k not in trained and not layouts[k].fixed]
    heads = sum(spent([k], 1) * layouts[k].head_macs / layouts[k].forward_macs for k in trained)
    return (spent(frozen, 0) + spent(trained, 1) + heads) / spent(range(len(layouts)), 1)


def memory_of_phases(config: RunConfig, values: flags.FlagValues) -> None:
    """Measures the peak of every phase, kept and recomputed activations, each in a new process."""
    from lab.planning.calibrate import every_phase

    rows = []
    for precision in values.precisions:
        for kept, reversible in KEPT.items():
            first = None
            for phase in every_phase(config.model.num_parts):
                if values.only and not any(part in f"{kept} {phase}" for part in values.only):
                    continue
                found = _in_new_process(phase, config, precisions=precision, reversible=reversible)
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
    header = ["precision", "activations", "phase", "peak MB", "activations MB", "/ first"]
    _report(values.output, "memory", header, rows)


def against_depth(config: RunConfig, values: flags.FlagValues, depths: Sequence[int]) -> None:
    """Measures an end-to-end step at several depths, kept and recomputed, each in a new process."""
    from glow_tf.layout.schedule import end_to_end

    rows, curves = [], {}
    for precision in values.precisions:
        for kept, reversible in KEPT.items():
            label = f"{precision}, {kept}"
            if values.only and not any(part in label for part in values.only):
                continue
            changes = {"precisions": precision, "reversible": reversible, "parts": "1"}
            found = [_in_new_process(end_to_end(1), config, flow_steps=depth, **changes) for depth in depths]
            curves[label] = (depths, found)
            rows += _depth_rows(label, depths, found)
    header = ["activations", "flow steps", "ms/step", "activations MB", "/ first", "R² of time"]
    _report(values.output, "depth", header, rows)
    if values.output:
        from lab.benchmarks import plots

        plots.against_depth(curves, pathlib.Path(values.output) / "depth.png")


def _depth_rows(label: str, depths: Sequence[int], found: Sequence[Mapping[str, float]]) -> list[list[str]]:
    seconds = [f["seconds"] for f in found]
    r_squared = statistics.correlation(depths, seconds) ** 2 if len(depths) > 2 else float("nan")
    return [
        [
            label,
            f"{depth}",
            f"{1000 * f['seconds']:.0f}",
            f"{f['activations_mb']:.0f}",
            f"{f['activations_mb'] / found[0]['activations_mb']:.2f}",
            f"{r_squared:.4f}",
        ]
        for depth, f in zip(depths, found, strict=True)
    ]


def _in_new_process(phase: object, config: RunConfig, **changes: object) -> dict[str, float]:
    from lab.benchmarks import memory

    arguments = as_flags({**config.to_settings(), **changes})
    return memory.measure_in_fresh_process(__spec__.name, arguments, str(phase), config.model.image_shape)


def _report(output: str, name: str, header: list[str], rows: Iterable[list[str]]) -> None:
    rows = list(rows)
    print(tables.table(header, rows))
    if output:
        folder = pathlib.Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
