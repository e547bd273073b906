r"""Times training from its launch to the end of its first step, as a user sees it on a terminal.

    python -m lab.benchmarks.startup --flagfile=cifar10_small_end_to_end --data_dir=PATH \
        --flow_steps=32 --width=512 --batch_size=16 --train_examples=6400 --test_examples=1024 --rounds=3

The other flags are those of `glow-tf train`. Every launch is a new process with a new workdir.
"""

import os
import pathlib
import pty
import re
import statistics
import sys
import tempfile
import time

from absl import flags

from glow_tf.commands import cli, run_flags
from glow_tf.config import RunConfig
from glow_tf.devices import children
from glow_tf.run.files.flags_file import as_flags
from glow_tf.run.tables import table

MOMENTS = {  # what training shows, in this order
    "data read, model built": rb"training.* test images of",
    "first step over": rb"epoch 1/\d+ .* 1/\d+ ",
}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags and those of a run."""
    flags.DEFINE_integer("rounds", 3, "Number of launches.", lower_bound=1, flag_values=values)
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Prints the table."""
    config = run_flags.run_config(values)
    launches = [_launch(config) for _ in range(values.rounds)]
    from glow_tf.devices.strategies import device_name

    print(device_name())
    rows = [
        [name, f"{statistics.median(own):.1f}", ", ".join(f"{seconds:.1f}" for seconds in own)]
        for name, own in zip(MOMENTS, zip(*launches, strict=True), strict=True)
    ]
    print(table(["from launch", "seconds: median", "each"], rows))


def _launch(config: RunConfig) -> list[float]:
    """Returns the seconds from the launch to each of the moments."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.to_settings() | {"workdir": str(pathlib.Path(folder) / "run")}
        arguments = as_flags(settings)
        ours, theirs = pty.openpty()
        start = time.monotonic()
        process = children.start([*children.command("train"), *arguments], stdout=theirs, stderr=theirs)
        os.close(theirs)
        try:
            return _moments(ours, start)
        finally:
            os.close(ours)
            process.kill()
            process.wait()


def _moments(terminal: int, start: float) -> list[float]:
    found, shown = [], b""
    for pattern in MOMENTS.values():
        while not re.search(pattern, shown):
            try:
                more = os.read(terminal, 4096)
            except OSError:  # on Linux: the other side is closed; other systems read nothing
                more = b""
            if not more:
                last = shown.decode(errors="replace").strip().splitlines()[-1:]
                raise OSError(f"training ended before its first step: {last[0] if last else ''}")
            shown += more
        found.append(time.monotonic() - start)
    return found


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
