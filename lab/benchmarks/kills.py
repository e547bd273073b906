"""Ends commands by four signals at random moments, and says what is left.

    python -m lab.benchmarks.kills --commands=train,fit,export,enlarge --kills=30 --csv=docs/results/kills.csv

Training goes on after each kill; at the end it has the weights and the history of a run that was not killed.
The other commands find an output of before in every second call. What is left must be nothing, that output,
or the new one whole, and of the files of `enlarge` each one. The last call of each series does its work, and
then nothing is beside its output. SIGTERM, SIGINT and SIGHUP must end a command with its sentence, unless it
has not begun yet or has done its work. What the CSV has is not measured again.
"""

import functools
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_digits

import glow_tf
from glow_tf.commands import cli
from glow_tf.core.durable_files import UNFINISHED
from glow_tf.store import checkpoints
from lab.benchmarks.rows import added_to, measured, read, reproducible

EPOCHS = 500  # so many that the run is not over before the last kill
LONGEST = 12.0  # seconds of training until a kill
BEGUN = 1.0  # seconds after which Python has come to the command
TRAIN = (
    *("train", "--flagfile=quickstart", "--train_examples=64", "--batch_size=16", "--test_examples=16"),
    *("--width=4", "--schedule=simultaneous", "--part_epochs=2", "--rate_schedule=constant"),
    *("--tensorboard=false", "--sample_every=0", "--export=false"),
)
SMALL = (
    *(
        "train",
        "--architecture=levels",
        "--n_bits=5",
        "--dataset=folder:images",
        "--image_size=8",
        "--num_blocks=1",
    ),
    *("--flow_steps=1", "--width=4", "--batch_size=16", "--part_epochs=3", "--from_scratch"),
    *("--tensorboard=false", "--sample_every=0", "--export=false"),
)
OTHERS = {
    "fit": ("score", "fit", "--dataset=folder:images", "--calibration={}", "--model={}"),
    "export": ("export", "--overwrite", "--output={}", "--model={}"),
    "enlarge": ("enlarge", "images", "--factor=2", "--overwrite", "--output={}", "--model={}"),
}
TENSORFLOWS = "__autograph_generated_file"  # what it leaves among files for a time when it is killed
UNLIKE = "fingerprint.pb"  # differs between two exports of one model
COLUMNS = ("command", "signal", "seed", "kill", "seconds", "status", "before", "after")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("commands", ["train", *OTHERS], "Which are killed.", flag_values=values)
    flags.DEFINE_list("signals", ["KILL", "TERM", "INT", "HUP"], "By which.", flag_values=values)
    flags.DEFINE_integer("kills", 30, "How often by each.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)
    flags.DEFINE_string("csv", "kills.csv", "To add to: one row per kill.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Kills each command by each signal, as often as the CSV does not have yet."""
    # What a shell has in the background ignores the one, what `nohup` starts the other; so would children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    known = measured(given.csv, COLUMNS[:4])
    with added_to(given.csv, COLUMNS) as add, tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"], os.environ["TMPDIR"] = str(pathlib.Path.cwd()), f"{folder}/temporary"
        os.chdir(folder)
        _prepare()
        for command in given.commands:
            for name in given.signals:
                series = command, name, str(given.seed)
                kills = [k for k in range(1, given.kills + 1) if (*series, str(k)) not in known]

                def kill(number: int, longest: float, arguments: list[str], left: Callable) -> None:
                    before, seconds = left(), random.Random(f"{series}{number}").uniform(0, longest)  # noqa: B023
                    status = _ended(arguments, left, seconds, series[1])  # noqa: B023
                    add([*series, number, f"{seconds:.2f}", status, before, left()])  # noqa: B023
                    print(*series, number, f"{seconds:.2f}", status, before, left(), flush=True)  # noqa: B023

                if kills:
                    (_train if command == "train" else functools.partial(_other, command))(name, kills, kill)


def _prepare() -> None:
    """Makes 40 images and two small models of them in the current folder."""
    for folder in ("images", "temporary", "outputs"):
        os.mkdir(folder)
    for k, pixels in enumerate(8 * load_digits().images[:40].astype(np.uint8)):
        Image.fromarray(pixels).save(f"images/{k}.png")
    for seed, state in enumerate(("old", "new")):
        _ended([*SMALL, f"--seed={seed}", f"--workdir=model_{state}"], str)


def _train(name: str, kills: list[int], kill: Callable) -> None:
    """Kills and resumes a run, and compares it with one that was not killed; exits if they differ."""
    cut, whole = pathlib.Path(f"cut_{name}"), pathlib.Path(f"whole_{name}")

    def arguments(workdir: pathlib.Path, epochs: int) -> list[str]:
        return [*TRAIN, f"--finetune_epochs={epochs - 2}", f"--workdir={workdir}"]

    def finished() -> int:
        return checkpoints.finished(cut / "checkpoints")

    for number in kills:
        before = finished()
        kill(number, LONGEST, arguments(cut, EPOCHS), finished)
        _require(finished() >= before, f"the run had {before} epochs and has {finished()}")
    for workdir in (cut, whole):
        _ended(arguments(workdir, finished() + 2 * (workdir == cut)), finished)
    weights = [glow_tf.load(workdir).get_weights() for workdir in (cut, whole)]
    same = all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    _require(same and _history(cut) == _history(whole), "the runs differ")


def _history(workdir: pathlib.Path) -> list[dict[str, str]]:
    """Returns what history.csv says of every epoch, but for times and memory."""
    return [reproducible(row) for row in read(workdir / "history.csv")]


@functools.cache
def _outputs(command: str) -> tuple[dict[str, dict[str, str]], float]:
    """Returns the files that a command writes with either model, and how long it takes."""
    known = {}
    for state in ("old", "new"):
        start, folder = time.monotonic(), f"{command}_{state}"
        _ended(_arguments(command, folder, state), str)
        known[state] = _files(pathlib.Path(folder))
    return known, time.monotonic() - start


def _arguments(command: str, output: str | pathlib.Path, state: str) -> list[str]:
    return [own.format(f"model_{state}" if "model" in own else output) for own in OTHERS[command]]


def _other(command: str, name: str, kills: list[int], kill: Callable) -> None:
    """Kills a command, and compares what is left with what it writes with either model."""
    (known, longest), output = _outputs(command), pathlib.Path("outputs", "output")
    arguments = _arguments(command, output, "new")

    def left() -> str:
        found = {own: digest for own, digest in _files(output).items() if not UNFINISHED.fullmatch(own)}
        whole = [state for state, files in {"none": {}, **known}.items() if files == found]
        each = command == "enlarge" and found.items() <= {*known["old"].items(), *known["new"].items()}
        return whole[0] if whole else "some" if each else "damaged"

    for number in kills:
        shutil.rmtree(output, ignore_errors=True)
        if number % 2:
            shutil.copytree(f"{command}_old", output)
        kill(number, longest, arguments, left)
        _require(left() != "damaged", "the output is damaged")
        _require(name == "KILL" or not _beside(output), f"there is {_beside(output)}")
    _ended(arguments, left)
    done = _files(output) == known["new"] and not _beside(output)
    _require(done, f"the last call left {left()}, {_beside(output)}")


def _files(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digest of each file below a folder, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != UNLIKE)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _beside(output: pathlib.Path) -> list[str]:
    """Returns the names of what is beside an output, and of files for a time."""
    places = (*output.parent.iterdir(), *pathlib.Path("temporary").iterdir())
    return [path.name for path in places if path != output and not path.name.startswith(TENSORFLOWS)]


def _ended(arguments: list[str], left: Callable, seconds: float | None = None, name: str = "") -> int:
    """Runs a command, which gets a signal after some seconds, if any; returns its status.

    Exits if it fails, or ends without its sentence.
    """
    command, pipe = [sys.executable, "-m", "glow_tf.commands", *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as run:
        try:
            said, _ = run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(getattr(signal, f"SIG{name}"))
            said, _ = run.communicate()
    done = not run.returncode or (seconds is not None and left() == "new")
    unbegun = seconds is not None and seconds < BEGUN
    sentence = any(line.startswith("Interrupted. ") for line in said.splitlines())
    # Where the source text of a module's class was run, Python ends the process as shells know it: 130, too.
    status = run.returncode in (cli.INTERRUPTED, -signal.SIGINT)
    ended = sentence and status and "Traceback" not in said
    good = done or unbegun or name == "KILL" or ended
    _require(good, f"{arguments} ended with {run.returncode} after {seconds} seconds:\n{said}")
    return run.returncode


def _require(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(what)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
