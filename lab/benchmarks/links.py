r"""How fast do two machines train that a slow link joins? Each is a network namespace with one core.

    python -m lab.benchmarks.links --flagfile=base --data_dir=PATH --flow_steps=8 --width=64 --batch_size=8 \
        --train_examples=3200 --test_examples=64 --mbit=20,100 --csv=links.csv

The other flags are those of `glow-tf train`, for both the Glow and the levels that are compared. Every worker
has `--batch_size` images in a step, so two workers share twice as many. Ways to train are run in turns,
`--rounds` times; what counts is the second epoch of each run. The table has seconds per 1,000 images, and how
many times as fast that is as one machine. Needs two cores, Linux and root.
"""

import dataclasses
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from glow_tf.commands import cli, run_flags
from glow_tf.config import RunConfig
from glow_tf.core.cores import usable_cores
from glow_tf.core.errors import ConfigError
from glow_tf.devices import children
from glow_tf.devices.processes import JOBS
from glow_tf.run.files.flags_file import as_flags
from glow_tf.run.tables import table
from lab.benchmarks.faulty_link import home_link
from lab.benchmarks.pinned import run_in_namespaces, run_on_cores, seconds_of_epochs
from lab.benchmarks.rows import added_to

COLUMNS = ("link", "way", "images", "seconds")
STEPS_OF_SLOWEST = 8  # of workers that sum their gradients in every step
WORKERS, PARTS = {"strategy": "multi_worker"}, {"strategy": "part_parallel"}
LEVELS = {"architecture": "levels", "schedule": "simultaneous"}


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
      name: in the table.
      changes: to the flags that all ways share.
      alone: the way of one machine that it is compared with.
    """

    name: str
    changes: Mapping[str, object]
    alone: str

    @property
    def job(self) -> str:
        """What its processes are called; empty if it is one process."""
        return JOBS.get(str(self.changes.get("strategy", "")), "")


def ways(config: RunConfig, meetings: Sequence[int]) -> list[Way]:
    """Returns what is compared; `meetings` are the numbers of steps between two meetings of workers."""
    size, glow, levels = config.train.batch_size, "Glow, one machine", "levels, one machine"
    both = {**WORKERS, "batch_size": 2 * size}
    slowest = {**both, "train_examples": STEPS_OF_SLOWEST * 2 * size}
    heads = {"local_prior": f"flow:{max(config.model.width // 4, 8)}x2", "schedule": "simultaneous"}
    two = {**PARTS, "parts": "by_block:2"}
    found = [Way(levels, LEVELS, levels)]
    for k in range(1, config.model.num_blocks + 2):
        found.append(Way(f"levels, part {k} alone", {**LEVELS, "only_part": k}, levels))
    for every in meetings:
        found.append(
            Way(
                f"levels, two workers that meet every {every} steps",
                {**LEVELS, **both, "sync_every": every},
                levels,
            )
        )
    found.append(Way(glow, {}, glow))
    for every in meetings:
        found.append(
            Way(f"Glow, two workers that meet every {every} steps", {**both, "sync_every": every}, glow)
        )
    return [
        *found,
        Way("Glow, two workers, gradients summed in each step", slowest, glow),
        Way("Glow, end to end over a cut", two, glow),
        Way("Glow, two parts with heads, no gradient back", {**two, **heads, "part_delay": 1}, glow),
    ]


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags and those of a run."""
    own = {"flag_values": values}
    flags.DEFINE_integer("rounds", 2, "Runs of every way, in turns.", lower_bound=1, **own)
    flags.DEFINE_list("mbit", ["20"], "Mbit/s of the links.", **own)
    flags.DEFINE_float("latency_ms", 20.0, "Milliseconds that a packet takes.", lower_bound=0, **own)
    flags.DEFINE_float("lost", 1e-4, "Share of the packets that are lost.", lower_bound=0, **own)
    flags.DEFINE_list("meetings", ["32", "128"], "Steps between two meetings of workers.", **own)
    flags.DEFINE_list("only", [], "Only ways whose names contain one of these.", **own)
    flags.DEFINE_string("csv", "links.csv", "To add to: one row per run.", **own)
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Prints the table."""
    children.ends_by_sigterm()  # so that links are removed
    config = run_flags.run_config(values)
    if usable_cores() < 2:
        raise ConfigError("two machines need two cores. Received: one core")
    try:
        links, meetings = [float(text) for text in values.mbit], [int(text) for text in values.meetings]
    except ValueError:
        raise ConfigError(
            f"mbit and meetings must be numbers. Received: {values.mbit}, {values.meetings}"
        ) from None
    chosen = [
        way
        for way in ways(config, meetings)
        if not values.only or any(part in way.name for part in values.only)
    ]
    rows: list[tuple[str, str, int, float]] = []
    with added_to(values.csv, COLUMNS) as add, tempfile.TemporaryDirectory() as folder:
        for number in range(values.rounds):
            for way in chosen:
                for mbit in links if way.job else [0.0]:
                    workdir = pathlib.Path(folder) / f"{number} {mbit} {way.name}"
                    settings = _settings(config, way, str(workdir))
                    _run(way, settings, mbit, values)
                    link = f"{mbit:g} Mbit/s" if mbit else "none"
                    seconds = seconds_of_epochs(workdir)[-1]
                    rows.append((link, way.name, int(settings["train_examples"]), seconds))
                    add(rows[-1])
                    print(f"round {number + 1}: {way.name}, link {link}: {seconds} s", flush=True)
    print(_table(rows, chosen))


def _settings(config: RunConfig, way: Way, workdir: str) -> dict[str, object]:
    return config.to_settings() | {
        "workdir": workdir,
        "schedule": "end_to_end",
        "part_epochs": 2,
        "finetune_epochs": 0,
        "strategy": "one_device",
        "tensorboard": False,
        "sample_every": 0,
        "export": False,
        **way.changes,
    }


def _run(way: Way, settings: Mapping[str, object], mbit: float, values: flags.FlagValues) -> None:
    command = [*children.command("train"), *as_flags(settings)]
    if not way.job:
        run_on_cores(command, 0)
        return
    with home_link(mbit, values.latency_ms, values.lost, seed=0) as namespaces:
        run_in_namespaces(command, way.job, namespaces)


def _table(rows: Sequence[tuple[str, str, int, float]], chosen: Sequence[Way]) -> str:
    return table(
        ["", "link", "seconds per 1,000 images: median, range", "as fast as one machine"],
        list(_lines(rows, {way.name: way.alone for way in chosen})),
    )


def _lines(rows: Sequence[tuple[str, str, int, float]], alone: Mapping[str, str]) -> Iterator[list[str]]:
    found: dict[tuple[str, str], list[float]] = {}
    for link, name, images, seconds in rows:
        found.setdefault((name, link), []).append(1000 * seconds / images)
    middles = {key: statistics.median(own) for key, own in found.items()}
    for (name, link), own in found.items():
        baseline = middles.get((alone[name], "none"))
        times = f"{baseline / middles[name, link]:.2f}" if baseline else ""
        yield [name, link, f"{middles[name, link]:.2f}, {min(own):.2f}–{max(own):.2f}", times]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
