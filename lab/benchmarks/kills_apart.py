"""Kills machines that train the levels of one model apart, lets them finish, and compares their ends.

    python -m lab.benchmarks.kills_apart --kills=50

Three runs with `--only_part=k` train at the same time. When each has a checkpoint, one of them is killed with
kill -9 and started anew, and the parts are assembled, while the others train on; and so on, at random
moments. A run must go on from its last checkpoint. At the end each part, and the assembled model, must have
the numbers of runs that nothing happened to.
"""

import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from glow_tf.commands import cli
from glow_tf.config import DataConfig
from glow_tf.data import load
from glow_tf.devices import children
from glow_tf.use.assembling import assemble
from lab.benchmarks.kills import ROOT, finished, numbers
from lab.benchmarks.rows import added_to

PARTS = (1, 2, 3)
EPOCHS = 10_000  # so many that no run is over before the last kill
RUN = (
    "--dataset=digits",
    "--n_bits=5",
    "--architecture=levels",
    "--num_blocks=2",
    "--flow_steps=1",
    "--width=4",
    "--condition_features=2",
    "--train_examples=1024",
    "--test_examples=16",
    "--batch_size=16",
    "--schedule=simultaneous",
    "--finetune_epochs=0",
    "--rate_schedule=constant",
    "--tensorboard=false",
    "--sample_every=0",
    "--export=false",
)
COLUMNS = ("kill", "part", "seconds", "epochs_before", "resumed_after", "epochs_after", "assembled_bpd")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("kills", 50, "How often a run is killed, in all.", flag_values=values)
    flags.DEFINE_float("longest", 40.0, "Seconds until the next kill, at most.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments and of who is killed.", flag_values=values)
    flags.DEFINE_string("csv", "kills_apart.csv", "To add to: one row per kill.", flag_values=values)


class Machine:
    """One of the machines: the run of a part, killed and started again.

    Args:
      folder: of the workdirs and the logs of all parts.
      part: its part, from 1.
    """

    def __init__(self, folder: pathlib.Path, part: int):
        folder.mkdir(exist_ok=True)
        self.part = part
        self.workdir = folder / f"part_{part}"
        self._log = folder / f"part_{part}.log"

    def command(self, epochs: int) -> list[str]:
        """Returns the command of the run."""
        own = [f"--part_epochs={epochs}", f"--only_part={self.part}", f"--workdir={self.workdir}"]
        return [sys.executable, str(ROOT / "train/main.py"), *RUN, *own]

    def start(self) -> None:
        """Starts the run, or resumes it."""
        self.before, self._started = finished(self.workdir), time.monotonic()
        with self._log.open("w") as log:
            self._run = children.start(self.command(EPOCHS), stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> list[object]:
        """Kills the run; returns its row. It must not have ended, nor gone on from an earlier checkpoint."""
        if self._run.poll() is not None:
            sys.exit(f"part {self.part} ended by itself: {self._log.read_text()}")
        self._run.kill()
        self._run.wait()
        seconds, after = time.monotonic() - self._started, finished(self.workdir)
        said = re.search(r"Resuming after epoch (\d+)", self._log.read_text())
        if after < self.before or (said and int(said[1]) != self.before):
            sys.exit(f"part {self.part} had {self.before} epochs and has {after}: {self._log.read_text()}")
        return [self.part, f"{seconds:.2f}", self.before, said[1] if said else "", after]


def main(given: flags.FlagValues) -> None:
    """Kills, resumes, assembles, compares, and prints the counts."""
    moments = random.Random(given.seed)
    test = load(DataConfig("digits")).test
    with tempfile.TemporaryDirectory() as folder, added_to(given.csv, COLUMNS) as add:
        cut, whole = (
            [Machine(pathlib.Path(folder, name), part) for part in PARTS] for name in ("cut", "whole")
        )
        for machine in cut:
            machine.start()
        while not all(finished(machine.workdir) for machine in cut):  # else there is nothing to assemble
            time.sleep(1)
        for kill in range(1, given.kills + 1):
            time.sleep(moments.uniform(0, given.longest))
            killed = moments.choice(cut)
            row = killed.kill()
            killed.start()
            row = [kill, *row, f"{_bpd(cut, test).mean():.6f}"]
            add(row)
            print(*row, flush=True)
        for machine in cut:
            machine.kill()
        for machine, other in zip(cut, whole, strict=True):
            epochs = finished(machine.workdir) + 2
            for own in (machine, other):
                subprocess.run(own.command(epochs), check=True, stdout=subprocess.DEVNULL)
        histories = [numbers(m.workdir) == numbers(o.workdir) for m, o in zip(cut, whole, strict=True)]
        difference = float(np.abs(_bpd(cut, test) - _bpd(whole, test)).max())
        epochs = [finished(machine.workdir) for machine in cut]
        print(
            f"{given.kills} kills, {epochs} epochs: same histories: {all(histories)}; largest difference of "
            f"an image's bits/dim in the assembled model: {difference:.1g}"
        )
        if difference or not all(histories):
            sys.exit(1)


def _bpd(machines: list[Machine], images: np.ndarray) -> np.ndarray:
    """Returns the bits per dimension of images under the model that the parts make up now."""
    return assemble([machine.workdir for machine in machines]).glow.bits_per_dim(images).numpy()


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
