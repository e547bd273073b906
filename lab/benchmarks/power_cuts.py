"""Cuts a run off at each of its system calls, as kill -9 and as power cuts do, and resumes it.

    python -m lab.benchmarks.power_cuts --cuts=200 --power_cuts=30 --kills=6

A small run on the digits saves within and after its three epochs. strace, which must be installed, records
every call of it that changes its workdir. From the record the folder is rebuilt, in a new place, as it is

- when the process is killed at a call: all calls before it hold, whether or not they are on the disk;
- when the power is cut at a call: of what no fsync has covered, anything may be missing. A file may lack its
  end, or have zeros instead; a name that was made, changed or removed may be as before, each by itself, until
  its folder is flushed.

Besides, real processes are killed, with SIGKILL, at calls of the record. (strace counts a process's calls in
its own way, so the kill may come at a later call of the same name.) Each time the run is resumed. It has to
go on from the last save that was over by then, or from a later one, and to end with the same weights and the
same history as a run that nothing happened to.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.run import context, lifecycle
from glow_tf.run.files.checkpoint_content import divergence_of, state_of, within_epoch_of
from glow_tf.run.files.checkpoints import Checkpoints
from glow_tf.training.trainer import PartsTrainer
from lab.benchmarks.kills import numbers
from lab.benchmarks.rows import added_to

RUN = {
    "dataset": "digits",
    "n_bits": 5,
    "train_examples": 64,
    "test_examples": 16,
    "validation_examples": 16,
    "num_blocks": 1,
    "flow_steps": 1,
    "width": 4,
    "part_epochs": 0,
    "finetune_epochs": 3,
    "batch_size": 32,
    "sample_every": 0,
    "tensorboard": False,
    "export": False,
    "strategy": "one_device",
    "streams": 1,
}
EVERY_STEP = 1e-9  # minutes
CHANGES = (
    "open",
    "openat",
    "creat",
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "unlinkat",
    "mkdir",
    "rmdir",
)
# Others that change files: a run makes none of them, and if it did, the rebuilt folder would be another one.
NOT_EXPECTED = (
    "pwrite64", "writev", "pwritev", "ftruncate", "truncate", "renameat", "renameat2", "mkdirat", "link",
    "linkat", "symlink", "copy_file_range", "sendfile", "fallocate",
)  # fmt: skip
KILLED_AT = ("fsync", "rename", "unlink", "mkdir", "rmdir")  # whose paths are the same in each process
MARK = "saved"  # the name, followed by the place, of files beside the workdir that say when a save is over

COLUMNS = ("kind", "call", "name", "file", "saved", "resumed_from", "outcome")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer(
        "cuts", 200, "Calls, evenly spread, at which the run is cut off.", flag_values=values
    )
    flags.DEFINE_integer("power_cuts", 30, "Power cuts at random calls.", flag_values=values)
    flags.DEFINE_integer("kills", 6, "Processes that are killed at calls, evenly spread.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the calls, and of what a power cut takes.", flag_values=values)
    flags.DEFINE_string("csv", "power_cuts.csv", "To add to: one row per cut.", flag_values=values)
    flags.DEFINE_string("recorded", "", "Folder of the process that is recorded.", flag_values=values)


# The run, and what is recorded of it


def train(workdir: pathlib.Path, minutes: float = 0.0) -> None:
    """Trains the run, or resumes it."""
    settings = {**RUN, "workdir": str(workdir), "checkpoint_minutes": minutes}
    lifecycle.train(glow_tf.RunConfig.from_settings(settings), glow_tf.export)


def train_and_mark(folder: pathlib.Path) -> None:
    """Trains in folder/run, and makes a file in the folder after each save."""
    save, save_within = Checkpoints.save, Checkpoints.save_within

    def saved(self: Checkpoints, epochs: int, *others: object) -> bool:
        best = save(self, epochs, *others)
        (folder / f"{MARK}-{epochs}-0").touch()
        return best

    def saved_within(self: Checkpoints, steps: int, seconds: float) -> None:
        save_within(self, steps, seconds)
        (folder / f"{MARK}-{int(self.epochs)}-{steps}").touch()

    Checkpoints.save, Checkpoints.save_within = saved, saved_within
    train(folder / "run", EVERY_STEP)


def strace(folder: pathlib.Path, *options: str) -> int:
    """Runs `train_and_mark` in a process under strace; returns its status."""
    command = ["strace", "-f", *options, sys.executable, "-m", __spec__.name, f"--recorded={folder}"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call that changed something, or would have.

    Attributes:
      name: as strace has it.
      occurrence: it was the n-th of that name (from 1) among those that are recorded.
      paths: that it is about.
      text: its line, for what depends on flags.
      data: what it wrote.
    """

    name: str
    occurrence: int
    paths: tuple[str, ...]
    text: str
    data: bytes = b""


_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
_FILE = re.compile(r'\d+<(/[^>"]*)>|AT_FDCWD<[^>]*>|"([^"]*)"')


def record(folder: pathlib.Path) -> list[Call]:
    """Records the calls of a whole run that are about files below the folder."""
    log = folder.with_suffix(".log")
    names = ",".join((*CHANGES, *NOT_EXPECTED))
    status = strace(
        folder, "--seccomp-bpf", "-y", "-xx", "-s", "16777216", "-e", f"trace={names}", "-o", str(log)
    )
    if status:
        sys.exit(f"the recorded run must end well. Received: status {status}")
    counts: dict[str, int] = {}
    found = (_read(line, str(folder), counts) for line in _whole_lines(log))
    return [call for call in found if call is not None]


def _whole_lines(log: pathlib.Path) -> Iterator[str]:
    """Yields the calls of a log, each on one line: strace cuts those during which another thread made one."""
    begun: dict[str, str] = {}
    for line in log.open():
        thread = line.split(maxsplit=1)[0]
        if "<unfinished ...>" in line:
            begun[thread] = line.split("<unfinished ...>")[0]
        elif match := re.search(r"<\.\.\. \w+ resumed>", line):
            yield begun.pop(thread) + line[match.end() :]
        else:
            yield line


def _read(line: str, folder: str, counts: dict[str, int]) -> Call | None:
    """Returns the call of a line of strace's, if it is about a file below the folder."""
    data = b""
    if "write(" in line and (found := re.search(r'"([^"]*)", \d+\) = ', line)):
        data = bytes.fromhex(found[1].replace("\\x", ""))
        line = line.replace(f'"{found[1]}"', '""')
    line = _HEX.sub(lambda m: os.fsdecode(bytes.fromhex(m[0].replace("\\x", ""))), line)
    if folder not in line:
        return None
    if (match := _CALL.match(line)) is None:
        sys.exit(f"a call must be on one line of strace's. Received: {line!r:.300}")
    name, arguments, result = match[1], match[2], int(match[3])
    if name in NOT_EXPECTED:
        sys.exit(f"a run was not expected to make this call. Received: {line!r:.300}")
    counts[name] = counts.get(name, 0) + 1
    if result < 0 or "O_TMPFILE" in arguments or (name.startswith("open") and "O_CREAT" not in arguments):
        return None
    paths = [m[1] or m[2] for m in _FILE.finditer(arguments) if m[1] or m[2]]
    if name == "unlinkat" and not paths[-1].startswith("/"):
        paths = ["/".join(paths)]
    return Call(name, counts[name], tuple(paths), arguments, data)


# A disk


class File:
    """What a file holds, and what it held when it was last flushed."""

    def __init__(self):
        self.content = self.flushed = b""

    def after_power_cut(self, dice: random.Random) -> bytes:
        """Returns the old content, or the new one, cut off anywhere or with zeros from there."""
        if self.content == self.flushed:
            return self.content
        arrived = self.content[: dice.randint(0, len(self.content))]
        return dice.choice([self.flushed, arrived, arrived.ljust(len(self.content), b"\0")])


class Folder:
    """The names in a folder that are on the disk for sure."""

    def __init__(self):
        self.flushed: dict[str, File | Folder] = {}


Change = list[tuple[Folder, str, File | Folder | None]]  # what names of folders stand for; None: for nothing


def names_in(folder: Folder, changes: list[Change]) -> dict[str, File | Folder]:
    """Returns the names in a folder after changes that were not flushed."""
    found = dict(folder.flushed)
    for where, name, node in (entry for change in changes for entry in change):
        if where is folder:
            found[name] = node
    return {name: node for name, node in found.items() if node is not None}


class Disk:
    """The folder `root`, of which a process sees every change at once, and the disk what was flushed."""

    def __init__(self, root: str):
        self.root = root
        self.top = Folder()
        self.waiting: list[Change] = []  # that are not flushed

    def apply(self, call: Call) -> None:
        """Does what a call does."""
        path = call.paths[-1]
        if call.name in ("open", "openat", "creat"):
            found = self.find(path)
            if found is None:
                self.change((path, File()))
            elif "O_TRUNC" in call.text:
                found.content = b""
        elif call.name == "write":
            self.find(path).content += call.data
        elif call.name in ("fsync", "fdatasync"):
            self.flush(self.find(path))
        elif call.name == "rename":
            self.change((call.paths[0], None), (path, self.find(call.paths[0])))
        else:
            self.change((path, Folder() if call.name == "mkdir" else None))

    def tree(self, dice: random.Random | None = None) -> dict[str, bytes | None]:
        """Returns path → content (of a folder: None), as it is now or, with dice, after a power cut."""
        chance = 1.0 if dice is None else dice.choice([0.0, 0.5, 1.0])
        kept = [change for change in self.waiting if dice is None or dice.random() < chance]
        found: dict[str, bytes | None] = {}

        def walk(folder: Folder, path: str) -> None:
            for name, node in sorted(names_in(folder, kept).items()):
                place = f"{path}{name}"
                if isinstance(node, Folder):
                    found[place] = None
                    walk(node, f"{place}/")
                else:
                    found[place] = node.content if dice is None else node.after_power_cut(dice)

        walk(self.top, "")
        return found

    def find(self, path: str) -> File | Folder | None:
        """Returns what a path stands for now."""
        node = self.top
        for name in pathlib.PurePath(path).relative_to(self.root).parts:
            node = None if node is None else names_in(node, self.waiting).get(name)
        return node

    def change(self, *entries: tuple[str, File | Folder | None]) -> None:
        """Lets paths stand for something else."""
        places = [(pathlib.PurePath(path), node) for path, node in entries]
        self.waiting.append([(self.find(str(path.parent)), path.name, node) for path, node in places])

    def flush(self, node: File | Folder) -> None:
        """Brings a file's content, or the names in a folder, to the disk."""
        if isinstance(node, File):
            node.flushed = node.content
            return
        waiting = self.waiting
        self.waiting = []
        for change in waiting:
            if any(folder is node for folder, _, _ in change):  # a move to another folder is one change
                for folder, name, moved in change:
                    folder.flushed[name] = moved
            else:
                self.waiting.append(change)


def build(tree: dict[str, bytes | None], folder: pathlib.Path) -> None:
    """Makes a folder that holds a tree."""
    folder.mkdir()
    for path, content in tree.items():
        (folder / path).mkdir() if content is None else (folder / path).write_bytes(content)


# Resuming


def share_one_trainer() -> None:
    """Lets all runs of this process have one trainer, each from its first state; tracing takes longest."""
    make, shared = context.compiled_trainer, []

    def first_or_reset(*arguments: object) -> PartsTrainer:
        if not shared:
            trainer = make(*arguments)
            parts = (state_of(trainer), divergence_of(trainer), within_epoch_of(trainer))
            variables = tf.nest.flatten([list(part.values()) for part in parts])
            shared.append((trainer, [(variable, variable.numpy()) for variable in variables]))
        trainer, start = shared[0]
        for variable, value in start:
            variable.assign(value)
        return trainer

    context.compiled_trainer = first_or_reset


def end_of(workdir: pathlib.Path) -> tuple[list[dict[str, str]], list[np.ndarray]]:
    """Returns the history, without times, and the weights."""
    return numbers(workdir), glow_tf.load(workdir).get_weights()


def last_save(names: Iterator[str]) -> tuple[int, int]:
    """Returns the finished epochs of the last save that was over, and the steps after them."""
    found = [tuple(map(int, name.split("-")[1:])) for name in names if name.startswith(f"{MARK}-")]
    return max(found, default=(0, 0))


def resumed(workdir: pathlib.Path, whole: tuple, saved: tuple[int, int]) -> tuple[str, str]:
    """Resumes a run; returns from where, and `same`, `other numbers`, `steps lost` or why it was lost."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            train(workdir)
    except (Exception, SystemExit) as error:
        return "", f"lost: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    text = output.getvalue()
    place = (0, 0)
    if found := re.search(r"Resuming after (?:step (\d+) of )?epoch (\d+)", text):
        place = (int(found[2]) - bool(found[1]), int(found[1] or 0))
    if "This run is finished" in text:
        place = (RUN["finetune_epochs"], 0)
    history, weights = end_of(workdir)
    same = history == whole[0] and all(map(np.array_equal, weights, whole[1]))
    outcome = "other numbers" if not same else "steps lost" if place < saved else "same"
    return f"{place[0]}+{place[1]}", outcome


def main(given: flags.FlagValues) -> None:
    """Records, cuts off, resumes, and prints the counts."""
    if given.recorded:
        train_and_mark(pathlib.Path(given.recorded))
        return
    if shutil.which("strace") is None:
        sys.exit("this benchmark needs strace (Debian: apt-get install strace)")
    dice = random.Random(given.seed)
    share_one_trainer()
    with tempfile.TemporaryDirectory() as name, added_to(given.csv, COLUMNS) as add:
        root = pathlib.Path(name).resolve()
        train(root / "whole")
        whole = end_of(root / "whole")
        (root / "recorded").mkdir()
        calls = record(root / "recorded")
        counts: dict[tuple[str, str], int] = {}
        outcomes: dict[tuple, tuple[str, str]] = {}

        def note(kind: str, number: int, folder: pathlib.Path) -> None:
            """Resumes the run in a folder, unless one with the same files was, and writes the row."""
            saved = last_save(path.name for path in folder.iterdir())
            files = {p: p.is_file() and p.read_bytes() for p in sorted(folder.glob("run/**/*"))}
            key = tuple((str(p.relative_to(folder)), content) for p, content in files.items())
            if (saved, key) not in outcomes:
                outcomes[saved, key] = resumed(folder / "run", whole, saved)
            place, outcome = outcomes[saved, key]
            shutil.rmtree(folder)
            call = calls[number]
            path = pathlib.PurePath(call.paths[-1])
            at = ["", call.name, ""] if kind == "killed process" else [number + 1, call.name, path.name]
            add([kind, *at, f"{saved[0]}+{saved[1]}", place, outcome])
            counts[kind, outcome[:4]] = counts.get((kind, outcome[:4]), 0) + 1
            if outcome != "same":
                print(f"{kind} at call {number + 1}, {call.name} {path}: {outcome}", flush=True)

        count = min(given.cuts, len(calls))
        chosen = {k * len(calls) // count for k in range(count)}
        cut_at = sorted(dice.randrange(len(calls)) for _ in range(given.power_cuts))
        disk = Disk(str(root / "recorded"))
        for number, call in enumerate(calls):
            if number in chosen:
                build(disk.tree(), root / "again")
                note("kill", number, root / "again")
            for _ in range(cut_at.count(number)):
                marks = {path: b"" for path in disk.tree() if path.startswith(MARK)}
                build({**disk.tree(dice), **marks}, root / "again")
                note("power cut", number, root / "again")
            disk.apply(call)
        paths = {path for call in calls for path in call.paths}
        numbers = [number for number, call in enumerate(calls) if call.name in KILLED_AT]
        numbers = numbers[: len(numbers) * 3 // 4]  # strace counts fewer, and would not come to the last ones
        for k in range(given.kills):
            number = numbers[k * len(numbers) // given.kills]
            shutil.rmtree(root / "recorded", ignore_errors=True)
            (root / "recorded").mkdir()
            kill_at(calls[number], paths, root / "recorded")
            note("killed process", number, root / "recorded")
        different = len(outcomes)
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind}: {count} {outcome}")
    print(f"{len(calls)} calls; {different} different folders were resumed")
    if any(outcome != "same" for _, outcome in counts):
        sys.exit(1)


def kill_at(call: Call, paths: set[str], folder: pathlib.Path) -> None:
    """Starts the run in a folder, and kills it at a call."""
    only = [option for path in sorted(paths) for option in ("-P", path)]
    where = f"inject={call.name}:signal=KILL:when={call.occurrence}"
    if not strace(folder, *only, "-e", f"trace={call.name}", "-e", where, "-o", os.devnull):
        sys.exit(f"the process must be killed. Received: it ended well, {call}")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
