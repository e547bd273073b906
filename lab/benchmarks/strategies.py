r"""Times strategies on this machine's cores, interleaved, beside their forecasts.

    python -m lab.benchmarks.strategies --flagfile=cifar10_small_end_to_end --data_dir=PATH \
        --flow_steps=8 --width=128 --train_examples=640 --test_examples=64 [--rounds=3] [--mbit=20,10]

The other flags are those of `glow-tf train`. Schedule and strategy are what is compared; all contenders train
all parts simultaneously. Two part processes share the flow as `--parts` says, or `balanced:2`. Each run
trains `--epochs` epochs in its own processes, with one core per process. A calibration on one core comes
first; the planner makes its forecasts from it. `--mbit` adds runs of two processes over slow links, in
network namespaces; that needs root. At least two cores are needed.
"""

import csv
import dataclasses
import io
import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from glow_tf.commands import cli, run_flags
from glow_tf.config import RunConfig
from glow_tf.core.cores import usable_cores
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.devices import children
from glow_tf.devices.processes import JOBS
from glow_tf.layout.partition import part_layouts
from glow_tf.layout.schedule import phases
from glow_tf.run.files.flags_file import as_flags
from glow_tf.run.tables import table
from lab.benchmarks.pinned import run_in_namespaces, run_on_cores, seconds_of_epochs
from lab.benchmarks.slow_link import slow_link
from lab.planning.cluster_file import Cluster, Device
from lab.planning.planner import DELAYED, Planner, steps_of_epoch
from lab.planning.rates import Calibration, read_calibration

WITHIN_MACHINE = 1e6  # Mbit/s between two processes of one machine: no limit
ALONE = "one process on one core"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
      name: in the table.
      command: of `glow-tf`, with its own arguments; the flags of `glow-tf train` follow.
      changes: to these flags.
      planned: the planner's name of the strategy.
      devices: number of cores.
      mbit: Mbit/s of the link between its processes; 0 is this machine's own.
    """

    name: str
    command: tuple[str, ...]
    changes: Mapping[str, str]
    planned: str
    devices: int = 2
    mbit: float = 0.0


def contenders(links: Sequence[float], parts: str) -> list[Contender]:
    """Returns what is compared, the baseline first.

    Args:
      links: rates of slow links in Mbit/s.
      parts: of two part processes.
    """
    alone, launched, workers = ("train",), ("launch", "--parts", "--"), ("launch", "--workers=2", "--")
    worker, placed = {"strategy": "multi_worker"}, {"strategy": "part_parallel"}
    mirrored = {"strategy": "mirrored", "virtual_devices": "2"}
    two, three = {**placed, "parts": parts}, {**placed, "parts": "balanced:3", "part_delay": "1"}
    delayed, in_turn, together = {**two, "part_delay": "1"}, "part_parallel", DELAYED
    found = [
        Contender(ALONE, alone, {}, "one_device", 1),
        Contender("2 streams", alone, {}, "mirrored"),  # of one process, which share the batch
        Contender("mirrored, 2 replicas", alone, mirrored, "mirrored"),
        Contender("2 workers", workers, worker, "mirrored"),
        Contender("2 part processes, no delay", launched, two, in_turn),
        Contender("2 part processes", launched, delayed, together),
        Contender("3 part processes", launched, three, together, 3),
    ]
    for mbit in links:
        found += [
            Contender(f"2 part processes, {mbit:g} Mbit/s", alone, delayed, together, mbit=mbit),
            Contender(f"2 workers, {mbit:g} Mbit/s", alone, worker, "mirrored", mbit=mbit),
        ]
    return found


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags and those of a run."""
    own = {"flag_values": values}
    flags.DEFINE_integer("rounds", 3, "Runs of every contender, interleaved.", lower_bound=1, **own)
    flags.DEFINE_integer("epochs", 3, "Epochs per run.", lower_bound=1, **own)
    flags.DEFINE_list("mbit", [], "Also over links of these Mbit/s; needs root.", **own)
    flags.DEFINE_list("only", [], "Only contenders whose names contain one of these.", **own)
    flags.DEFINE_string("output", "", "CSV file for the seconds of all epochs; empty writes none.", **own)
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Prints the table."""
    children.ends_by_sigterm()  # so that links are removed
    config = run_flags.run_config(values)
    if config.model.num_parts > 2:
        raise ConfigError(f"parts must name two parts, or 1. Received: parts={config.model.parts!r}")
    chosen = _chosen(values, config.model.parts if config.model.num_parts == 2 else "balanced:2")
    if not config.data.train_examples:
        raise ConfigError(
            "train_examples must say how long an epoch is; 20 steps are enough. Received: train_examples=0"
        )
    if usable_cores() < 2:
        raise ConfigError("strategies are compared on at least two cores. Received: one core")
    own = {c.name: run_flags.config_of(_arguments(config, c, "unused", values.epochs)) for c in chosen}
    from glow_tf import data

    shape = data.load(config.data).image_shape
    with tempfile.TemporaryDirectory() as folder:
        calibration = _calibrate(config, shape, pathlib.Path(folder) / "calibration.json")
        forecasts = {c.name: _forecast(own[c.name], shape, c, calibration) for c in chosen}
        seconds = _seconds(config, values, chosen, forecasts, pathlib.Path(folder))
    print(calibration.machine)
    print(_table(seconds, forecasts))


def _seconds(
    config: RunConfig,
    values: flags.FlagValues,
    chosen: Sequence[Contender],
    forecasts: Mapping[str, float],
    folder: pathlib.Path,
) -> dict[str, list[float]]:
    """Runs all contenders, interleaved; returns the seconds of each epoch."""
    seconds: dict[str, list[float]] = {c.name: [] for c in chosen}
    for number in range(values.rounds):
        for contender in chosen:
            workdir = folder / f"{number} {contender.name}"
            own = _epochs(contender, _arguments(config, contender, str(workdir), values.epochs), workdir)
            seconds[contender.name] += own
            print(f"round {number + 1}: {contender.name}: {own} s per epoch", flush=True)
            if values.output:
                write_atomically(pathlib.Path(values.output), _csv(seconds, forecasts).encode())
    return seconds


def _chosen(values: flags.FlagValues, parts: str) -> list[Contender]:
    links = []
    for text in values.mbit:
        try:
            links.append(float(text))
        except ValueError:
            links.append(math.nan)
        if not 0 < links[-1] < math.inf:
            raise ConfigError(f"mbit must be positive numbers. Received: {text!r}")
        with slow_link(links[-1]):
            pass  # can it be made?
    every = contenders(links, parts)
    chosen = [c for c in every if not values.only or any(part in c.name for part in values.only)]
    if not chosen:
        names = ", ".join(c.name for c in every)
        raise ConfigError(f"only must match at least one of {names}. Received: {values.only}")
    return chosen


def _arguments(config: RunConfig, contender: Contender, workdir: str, epochs: int) -> list[str]:
    settings = config.to_settings() | {
        "workdir": workdir,
        "schedule": "simultaneous",
        "part_epochs": epochs,
        "finetune_epochs": 0,
        "parts": "1",
        "strategy": "one_device",
        "virtual_devices": 0,
        "tensorboard": False,
        "sample_every": 0,
        "export": False,
        **contender.changes,
    }
    return as_flags(settings)


def _calibrate(config: RunConfig, shape: Sequence[int], file: pathlib.Path) -> Calibration:
    own = as_flags(dataclasses.replace(config, workdir="unused").to_settings())
    command = [sys.executable, "-m", "lab.plan", "--calibrate", f"--calibration={file}"]
    command += [f"--image_shape={','.join(map(str, shape))}", *own]
    run_on_cores(command, 0)
    return read_calibration(file)


def _epochs(contender: Contender, arguments: Sequence[str], workdir: pathlib.Path) -> list[float]:
    """Runs a contender and returns the training seconds of its epochs."""
    name, *own = contender.command
    command = [*children.command(name), *own, *arguments]
    if contender.mbit:
        with slow_link(contender.mbit) as namespaces:
            run_in_namespaces(command, JOBS[contender.changes["strategy"]], namespaces)
    else:
        run_on_cores(command, *range(contender.devices))
    return seconds_of_epochs(workdir)


def _forecast(
    config: RunConfig, shape: Sequence[int], contender: Contender, calibration: Calibration
) -> float:
    """Returns the forecast seconds per epoch."""
    from glow_tf import data

    speed = min(usable_cores() / contender.devices, 1.0)  # fraction of a core per process
    device = Device("core", speed, 0.0, 0.0)
    link = (contender.mbit or WITHIN_MACHINE) * 1e6 / 8
    cluster = Cluster("this machine", (device,) * contender.devices, link, 0.0)
    train = config.train
    planner = Planner(cluster, train.batch_size, calibration, train.reversible)
    layouts = part_layouts(dataclasses.replace(config.model, image_shape=tuple(shape)))
    (phase,) = set(phases("simultaneous", len(layouts), 1))
    batches = data.steps_per_epoch(config.data.train_examples, train.batch_size)
    steps = steps_of_epoch(batches, layouts, phase, contender.planned, train.part_delay)
    return steps * planner.step(layouts, phase, contender.planned).seconds


def _csv(seconds: Mapping[str, Sequence[float]], forecasts: Mapping[str, float]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "predicted", "seconds"])
    writer.writerows([name, f"{forecasts[name]:.4f}", s] for name in seconds for s in seconds[name])
    return text.getvalue()


def _table(seconds: Mapping[str, Sequence[float]], forecasts: Mapping[str, float]) -> str:
    return table(
        ["", "seconds per epoch: median, range", "against one core", "forecast, s", "off by"],
        list(_rows(seconds, forecasts)),
    )


def _rows(seconds: Mapping[str, Sequence[float]], forecasts: Mapping[str, float]) -> Iterator[list[str]]:
    baseline = statistics.median(seconds[ALONE]) if ALONE in seconds else math.nan
    for name, own in seconds.items():
        middle = statistics.median(own)
        yield [
            name,
            f"{middle:.2f}, {min(own):.2f}–{max(own):.2f}",
            f"{baseline / middle:.2f}",
            f"{forecasts[name]:.2f}",
            f"{forecasts[name] / middle - 1:+.0%}",
        ]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
