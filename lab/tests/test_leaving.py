"""Machines that leave and return: the formula, by hand and beside a simulation."""

import math
import random
import subprocess
import sys

import pytest
from small import ROOT

from lab.planning.cluster_file import Cluster
from lab.planning.leaving import Machines, spread

LINK = Cluster("", (), 1e6, 0.01)


def test_one_machine_makes_what_is_reckoned_by_hand():
    half = Machines(1000.0, 0.5, 100.0, 100.0, 8, LINK)
    expected = 0.5 * math.exp(-0.1) * 0.1 / (math.exp(0.1) - 1) * 20.0  # no more than half of 20 images/s
    assert half.rate(1, 20.0, 1e6, 4) == pytest.approx(expected)
    assert expected == pytest.approx(8.603, abs=1e-3)


def test_machines_that_never_leave_wait_for_their_meetings_alone():
    machines = Machines(1e12, 1.0, 100.0, 100.0, 8, LINK)
    meeting = 2 * (0.01 + 0.5)  # each of two sends half of 1 MB, twice
    assert machines.rate(2, 16.0, 1e6, 4) == pytest.approx(2 * 32 / (32 / 16 + meeting), rel=1e-6)
    assert machines.rate(2, 16.0, 1e6, 4, least=2) == machines.rate(2, 16.0, 1e6, 4)


@pytest.mark.parametrize("least", [1, 8])
def test_eight_machines_make_what_a_simulation_of_them_does(least):
    machines = Machines(3000.0, 0.8, 10.0, 60.0, 8, LINK)
    expected = _simulated(machines, 8, 20.0, 1e6, 32, least)
    assert machines.rate(8, 20.0, 1e6, 32, least) == pytest.approx(expected, rel=0.03)


def _simulated(machines, count, alone, size, sync_every, least, events=200_000):
    """Lets machines leave and return one by one, and counts the images that checkpoints keep."""
    moments, away = random.Random(0), machines.up * (1 - machines.present) / machines.present
    there = [True] * count
    next_change = [moments.expovariate(1 / machines.up) for _ in range(count)]
    now = images = 0.0
    for _ in range(events):
        k = min(range(count), key=next_change.__getitem__)
        trained = next_change[k] - now - machines.restart
        m = sum(there)
        if m >= least and trained > 0:
            own = sync_every * machines.batch
            seconds = own / alone + 2 * (m - 1) * machines.link.transfer(size / m)
            images += trained // machines.kept_every * machines.kept_every * m * own / seconds
        now, there[k] = next_change[k], not there[k]
        next_change[k] = now + moments.expovariate(1 / (machines.up if there[k] else away))
    return images / now


def test_machines_go_to_the_slowest_part_and_stay_idle_where_they_would_not_help():
    steady = Machines(1e9, 1.0, 30.0, 600.0, 8, LINK)
    used, rates = spread(8, steady, [250.0, 950.0, 1500.0], [1e5] * 3, 128)
    assert used == [5, 2, 1]
    assert rates[2] == pytest.approx(1500.0, rel=1e-4)
    used, _ = spread(1000, steady, [250.0, 950.0, 1500.0], [1e5] * 3, 1)
    assert sum(used) < 1000


def test_the_command_prints_a_row_for_each_number_of_machines():
    command = [sys.executable, "-m", "lab.planning.leaving", "--flagfile=base", "--num_blocks=1"]
    command += [
        "--architecture=levels",
        "--strategy=multi_worker",
        "--images_per_second=250,900",
        "--machines=8,100",
        "--sync_every=128",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()][2:] == ["8", "100"]
    done = subprocess.run([*command, "--machines=1"], cwd=ROOT, capture_output=True, text=True)
    assert "images_per_second needs a number for each of 2 parts" in done.stdout + done.stderr
