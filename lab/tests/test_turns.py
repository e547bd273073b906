"""What runs of a study cost follows from their phases, each of which is timed once."""

import dataclasses

import pytest

from lab.benchmarks.turns import runs_of_variants, timed_phases, whole_runs
from lab.benchmarks.two_devices import compared


@pytest.fixture(scope="module")
def runs():
    return runs_of_variants("paper")


def test_each_phase_of_each_model_is_timed_once(runs):
    of_two = [runs[name] for name in ("across_2", "across_2_sequential", "across_2_simultaneous_alone")]
    (phases,) = timed_phases(of_two).values()
    assert [str(phase) for phase in phases] == ["part 1", "part 2", "end to end", "simultaneous"]
    assert len(timed_phases([runs["end_to_end"], runs["pixels"], runs["end_to_end_8"]])) == 2


def test_a_run_takes_the_sum_of_its_epochs(runs):
    """Four epochs of each part at 2 and 4 ms and four end to end at 10, against twelve of 8."""
    chosen = {name: runs[name] for name in ("end_to_end", "across_2")}
    data = dataclasses.replace(runs["end_to_end"].config.data, train_examples=51200)
    config = dataclasses.replace(runs["end_to_end"].config, data=data)
    chosen["twice"] = dataclasses.replace(runs["end_to_end"], config=config)
    ms = [("end_to_end", "end to end", 8), ("twice", "end to end", 8)]
    ms += [("across_2", "part 1", 2), ("across_2", "part 2", 4), ("across_2", "end to end", 10)]
    rows = [
        {"variant": name, "phase": phase, "turn": turn, "ms": str(own * slower)}
        for turn, slower in (("1", 1), ("2", 3))
        for name, phase, own in ms
    ]
    assert whole_runs(chosen, rows) == {
        "end_to_end": [1, 1],
        "across_2": [pytest.approx(64 / 96)] * 2,
        "twice": [2, 2],
    }


def test_what_two_devices_give_is_read_at_the_time_of_the_fastest():
    def run(name, seconds, cpu, bits):
        own = [(100, 50), *[(seconds, cpu)] * 2]  # the first epoch traces
        columns = ("variant", "seed", "seconds", "cpu_seconds", "test_bpd")
        return [
            dict(zip(columns, map(str, (name, 0, *times, b)), strict=True))
            for times, b in zip(own, bits, strict=True)
        ]

    rows = run("parts", 2, 3, (5.0, 4.5, 4.4)) + run("replicas", 4, 8, (5.0, 4.0, 3.8))
    assert compared(rows) == {"parts": [(2, 0.25, 4.4)], "replicas": [(4, 0, pytest.approx(4.5))]}
