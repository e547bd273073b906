"""The benchmarks' commands, on a model too small to say anything about speed."""

import csv
import subprocess
import sys

import pytest
from absl import flags
from small import ROOT

from glow_tf.commands.parsing import parse
from glow_tf.commands.run_flags import config_of
from lab.benchmarks import steps

SMALL = {
    "workdir": "unused",
    "dataset": "digits",
    "n_bits": 5,
    "num_blocks": 1,
    "flow_steps": 2,
    "width": 8,
    "parts": "1,1",
    "batch_size": 16,
    "rounds": 2,
    "timed_steps": 1,
}


def benchmark(folder, *more):
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    result = subprocess.run(
        [sys.executable, "-m", "lab.benchmarks.steps", *arguments, f"--output={folder}", *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_times_are_reported_against_floor_end_to_end_and_prediction(tmp_path):
    assert "medians of 2 rounds of 1 runs" in benchmark(tmp_path)
    table = {row["what"]: row for row in rows(tmp_path / "times.csv")}
    for name in (
        "floor",
        "floor, chained",
        "step",
        "step in fit",
        "part 1",
        "part 2",
        "simultaneous",
        "sample",
        "log_prob",
    ):
        assert float(table[name]["ms"]) > 0
    assert table["step"]["/ end to end"].startswith("1.000 ")
    assert table["part 1"]["predicted"] == "0.500"
    assert 0 < float(table["part 2"]["from blocks"]) < 1
    assert float(table["input pipeline"]["images/s"]) > 0


@pytest.mark.slow
def test_memory_is_measured_in_fresh_processes(tmp_path):
    benchmark(tmp_path, "--memory")
    table = rows(tmp_path / "memory.csv")
    assert [row["phase"] for row in table] == ["end to end", "part 1", "part 2", "simultaneous"] * 2
    assert [row["activations"] for row in table] == ["kept"] * 4 + ["recomputed"] * 4
    assert all(float(row["peak MB"]) > 0 for row in table)


@pytest.mark.slow
def test_strategies_are_timed_beside_their_predictions(tmp_path):
    arguments = [
        f"--{name}={value}" for name, value in SMALL.items() if name not in ("rounds", "timed_steps")
    ]
    own = ["--rounds=2", "--epochs=1", "--only=one core,no delay", f"--output={tmp_path / 'seconds.csv'}"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "lab.benchmarks.strategies",
            *arguments,
            *own,
            "--train_examples=64",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    table = rows(tmp_path / "seconds.csv")
    subjects = ["one process on one core"] * 2 + ["2 part processes, no delay"] * 2
    assert [row["subject"] for row in table] == subjects
    assert all(float(row["seconds"]) > 0 and float(row["predicted"]) > 0 for row in table)


@pytest.mark.parametrize(
    ("program", "flags", "expected"),
    [
        (
            "steps",
            "--precisions=float16",
            "precisions must be float32 and/or mixed_bfloat16. Received: ['float16']",
        ),
        (
            "strategies",
            "--schedule=end_to_end --train_examples=0",
            "train_examples must say how long an epoch is; 20 steps are enough. Received: train_examples=0",
        ),
    ],
)
def test_bad_settings_are_named(program, flags, expected):
    result = subprocess.run(
        [sys.executable, "-m", f"lab.benchmarks.{program}", "--workdir=w", *flags.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert expected in result.stderr


def startup(*more):
    own = {name: value for name, value in SMALL.items() if name not in ("rounds", "timed_steps")}
    arguments = [f"--{name}={value}" for name, value in own.items()]
    command = [sys.executable, "-m", "lab.benchmarks.startup", *arguments, "--rounds=1", *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_launch_is_timed_until_its_first_step():
    result = startup()
    assert result.returncode == 0, result.stderr
    built, stepped = (float(line.split()[-1]) for line in result.stdout.splitlines()[-2:])
    assert 0 < built < stepped


@pytest.mark.slow
def test_a_launch_that_fails_says_why():
    result = startup("--train_examples=1000000")
    assert result.returncode == 1
    assert "ended before its first step: Error: train_examples must be at most" in result.stderr


def test_the_benchmark_of_steps_takes_the_quickstart_if_no_flag_describes_a_model():
    def config(*arguments):
        values = flags.FlagValues()
        steps.define(values)
        parse(values, arguments)
        return steps._config(values)

    quickstart = config_of(["--flagfile=quickstart"])
    assert config() == config("--rounds=2") == quickstart
    assert config("--dataset=digits", "--width=16").model.num_blocks == 3  # the default
