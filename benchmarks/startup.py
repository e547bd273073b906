r"""Times main.py from its launch to the end of its first training step, as its user sees them on a terminal.

    python train/benchmark_startup.py --flagfile=configs/cifar10_small_end_to_end.cfg --data_dir=PATH \
        --flow_steps=32 --width=512 --batch_size=16 --train_examples=6400 --test_examples=1024 [--rounds=3]

The flags are those of main.py. Every launch is a new process with a workdir of its own.
"""

import os
import pathlib
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flags_of_run
from absl import app, flags
from processes import die_with_parent

from glow_tf.config import ConfigError, RunConfig
from glow_tf.distribution import device_name
from glow_tf.tables import table

ROUNDS = flags.DEFINE_integer("rounds", 3, "Launches.", lower_bound=1)
flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)

FOLDER = pathlib.Path(__file__).parent
MOMENTS = {  # what main.py shows, in this order
    "data read, model built": rb"training.* test images of",
    "first step over": rb"epoch 1/\d+ .* 1/\d+ ",
}


def main(argv: list[str]) -> int:
    """Prints the table; returns the exit status."""
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        config = flags_of_run.run_config()
        launches = [_launch(config) for _ in range(ROUNDS.value)]
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(device_name())
    rows = [
        [name, f"{statistics.median(own):.1f}", ", ".join(f"{seconds:.1f}" for seconds in own)]
        for name, own in zip(MOMENTS, zip(*launches, strict=True), strict=True)
    ]
    print(table(["from launch", "seconds: median", "each"], rows))
    return 0


def _launch(config: RunConfig) -> list[float]:
    """Returns the seconds from the launch to each of the moments."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.to_settings() | {"workdir": str(pathlib.Path(folder) / "run")}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        ours, theirs = pty.openpty()
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "main.py"), *arguments],
            stdout=theirs,
            stderr=theirs,
            preexec_fn=die_with_parent,
        )
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
            except OSError:  # Linux's way to say that the other side is closed; elsewhere nothing is read
                more = b""
            if not more:
                last = shown.decode(errors="replace").strip().splitlines()[-1:]
                raise OSError(f"main.py ended before its first step: {last[0] if last else ''}")
            shown += more
        found.append(time.monotonic() - start)
    return found


if __name__ == "__main__":
    app.run(main)
