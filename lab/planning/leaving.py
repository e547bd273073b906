"""Forecasts levels trained apart on machines that leave and return, beside synchronous data parallelism.

    python -m lab.planning.leaving --flagfile=base --architecture=levels --flow_steps=8 --width=64 \
        --strategy=multi_worker --sync_every=128 --images_per_second=254,967,1522,1611 --machines=8,100,1000

The flags of `glow-tf train` describe the model. A machine is there for a random time of mean `--up_hours`,
then away for one, both exponential, so that it is there for `--present` of all time. The machines of a part
are workers that make `--sync_every` steps alone and then average their weights in a ring. Whenever one leaves
or returns, all of the part's go back to its last checkpoint and start again. Machines that would make the
slowest part no faster stay idle. Synchronous data parallelism trains the same model by gradients that are
summed in each step, and stands still while anybody is away.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence

from absl import flags

from glow_tf.commands import cli, run_flags
from glow_tf.core.errors import ConfigError
from glow_tf.layout.cost import weight_bytes
from glow_tf.layout.partition import part_layouts
from glow_tf.run.tables import table
from lab.planning.cluster_file import Cluster

HEADER = ("machines", "a part's", "images/s of the parts", "hours", "synchronous: images/s", "hours")


@dataclasses.dataclass(frozen=True)
class Machines:
    """Machines that are alike, and what their leaving costs.

    Attributes:
      up: mean seconds for which one is there.
      present: share of the time for which one is there, above 0; 1: always.
      restart: seconds from a change until training goes on.
      kept_every: seconds of training between two checkpoints.
      batch: images of one machine in a step.
      link: the one between any two of them.
    """

    up: float
    present: float
    restart: float
    kept_every: float
    batch: int
    link: Cluster

    def rate(self, count: int, alone: float, size: float, sync_every: int, least: int = 1) -> float:
        """Returns the images per second that machines make together, of which a checkpoint keeps a trace.

        While m of n are there, changes come at the rate λ = m/up + (n − m)/away. What is trained between two
        changes counts in whole checkpoints: e^(−λ restart) λ kept_every / (e^(λ kept_every) − 1) of the time.

        Args:
          count: of the machines, n.
          alone: images per second of one of them.
          size: bytes that they average.
          sync_every: steps between two meetings.
          least: how many must be there.
        """
        away = self.up * (1 - self.present) / self.present
        total = 0.0
        for there in range(max(least, 1), count + 1):
            chance = _binomial(count, there, self.present)
            changes = there / self.up + ((count - there) / away if away else 0.0)
            own = sync_every * self.batch
            meeting = 2 * (there - 1) * self.link.transfer(size / there)
            total += (
                chance * _kept(changes, self.restart, self.kept_every) * there * own / (own / alone + meeting)
            )
        return total


def _binomial(count: int, there: int, share: float) -> float:
    if share == 1:
        return float(there == count)
    ways = math.lgamma(count + 1) - math.lgamma(there + 1) - math.lgamma(count - there + 1)
    return math.exp(ways + there * math.log(share) + (count - there) * math.log1p(-share))


def _kept(changes: float, restart: float, kept_every: float) -> float:
    way = changes * kept_every
    if way > 500:
        return 0.0
    return math.exp(-changes * restart) * (way / math.expm1(way) if way else 1.0)


def spread(
    count: int, machines: Machines, alone: Sequence[float], sizes: Sequence[float], sync_every: int
) -> tuple[list[int], list[float]]:
    """Returns how many machines each part gets, and its images per second: the slowest part gets the next.

    Args:
      count: of the machines, one or more for each part.
      machines: what they are like.
      alone: images per second of each part on one machine.
      sizes: bytes of each part's weights.
      sync_every: steps between two meetings.
    """
    used = [1] * len(alone)
    rates = [machines.rate(1, *own, sync_every) for own in zip(alone, sizes, strict=True)]
    while sum(used) < count:
        k = rates.index(min(rates))
        faster = machines.rate(used[k] + 1, alone[k], sizes[k], sync_every)
        if faster <= rates[k]:
            break
        used[k], rates[k] = used[k] + 1, faster
    return used, rates


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags and those of a run."""
    own = {"flag_values": values}
    flags.DEFINE_list("machines", ["8", "100", "1000"], "How many there are; a row for each.", **own)
    flags.DEFINE_list("images_per_second", [], "Of each part, on one machine, as measured.", **own)
    flags.DEFINE_float("up_hours", 20.0, "Mean hours for which a machine is there.", lower_bound=1e-3, **own)
    flags.DEFINE_float("present", 0.9, "Share of the time for which it is.", 1e-3, 1.0, **own)
    flags.DEFINE_float("restart_seconds", 30.0, "From a change until training goes on.", **own)
    flags.DEFINE_float("kept_minutes", 10.0, "Of training between checkpoints.", lower_bound=1e-3, **own)
    flags.DEFINE_float("mbit", 20.0, "Mbit/s of the links.", lower_bound=1e-3, **own)
    flags.DEFINE_float("latency_ms", 20.0, "Milliseconds that a packet takes.", lower_bound=0, **own)
    flags.DEFINE_float("images", 5e6, "To be trained on, by each part.", lower_bound=1, **own)
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Prints the table."""
    config = run_flags.run_config(values)
    model = dataclasses.replace(config.model, image_shape=(32, 32, 3))
    sizes = [weight_bytes([layout]) for layout in part_layouts(model)]
    try:
        counts, alone = list(map(int, values.machines)), list(map(float, values.images_per_second))
    except ValueError:
        counts, alone = [], []
    if len(alone) != len(sizes) or not counts or min(counts) < len(sizes) or min(alone) <= 0:
        raise ConfigError(
            f"images_per_second needs a number for each of {len(sizes)} parts, and machines as many or more. "
            f"Received: {','.join(values.images_per_second)!r}, {','.join(values.machines)!r}"
        )
    link = Cluster("", (), values.mbit * 1e6 / 8, values.latency_ms / 1e3)
    times = (values.restart_seconds, 60 * values.kept_minutes)
    machines = Machines(3600 * values.up_hours, values.present, *times, config.train.batch_size, link)
    whole = 1 / sum(1 / rate for rate in alone)
    rows = []
    for count in counts:
        used, rates = spread(count, machines, alone, sizes, max(config.train.sync_every, 1))
        together = machines.rate(count, whole, sum(sizes), 1, least=count)
        speeds = [min(rates), together]
        hours = [f"{values.images / speed / 3600:.3g}" if speed > 1e-9 else "never" for speed in speeds]
        each = " + ".join(map(str, used))
        rows.append(
            [count, each, ", ".join(f"{r:.0f}" for r in rates), hours[0], f"{together:.2g}", hours[1]]
        )
    print(table(HEADER, [list(map(str, row)) for row in rows]))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
