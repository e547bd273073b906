"""What is said of curves of bits by time, and the clock that measures the time."""

import itertools

import numpy as np
import pytest

from lab.benchmarks import curves as benchmark
from lab.benchmarks import separability
from lab.benchmarks.separability import SKIPPED, Clock
from lab.studies import curves
from lab.studies.curves import bits_at, factors


def curve(*points):
    """Runs of 8 steps, of seconds and bits; the k-th has seen k images. Beside are bits of two groups."""
    beside = np.array([0, -0.1, 0.1])
    return [curves.Run(seconds, bits + beside, (8, k)) for k, (seconds, bits) in enumerate(points)]


def test_a_factor_of_time_is_that_to_equal_bits_and_none_is_made_up_beyond_the_runs():
    first = curve((10.0, 4.0), (100.0, 3.5), (1000.0, 3.25))
    other = curve((15.0, 4.5), (20.0, 4.0), (300.0, 3.5), (4000.0, 3.3), (9000.0, 3.2))
    assert factors(first, other) == pytest.approx({(8, 1): 2.0, (8, 2): 3.0, (8, 3): 4000 / 10**2.8})
    assert factors([], other) == {}
    assert bits_at(first, 10**1.5) == pytest.approx([3.75, 3.65, 3.85])
    assert np.isnan(bits_at(first, 9.0)).all()
    assert np.isnan(bits_at(first, 1001.0)).all()


def test_a_curve_has_the_runs_of_one_seed_that_are_the_best_for_their_time(tmp_path):
    path = tmp_path / "curves.csv"
    rows = [
        ("levels", 32, 8, 100, 60, 5, 4.1),
        ("levels", 64, 8, 100, 60, 9, 4.2),
        ("levels", 64, 12, 200, 60, 18, 3.9),
    ]
    rows += [("levels", 32, 8, 100, 61, 6, 4.0), ("glow_haar", 32, 8, 100, 60, 5, 4.3)]
    lines = [",".join(map(str, ("x", *row, 0.01, "4.0 4.2"))) for row in rows]
    path.write_text("\n".join([",".join(benchmark.COLUMNS), *lines]))
    found = curves.curves([str(path)], ("60", "61"))
    assert [(run.seconds, run.about) for run in found["x", "levels", "60"]] == [
        (5.0, (8, 100)),
        (18.0, (12, 200)),
    ]
    assert found["x", "levels", "61"][0].bits.tolist() == [4.0, 4.0, 4.2]
    assert found["x", "glow_haar", "60"][0].bits.tolist() == [4.3, 4.0, 4.2]
    assert not curves.curves([str(path)], ("62",))
    lines = curves.mean_lines([str(path)], ("model", "width"), "images", {"model": "levels"})
    assert lines["model levels, width 32"] == [pytest.approx((5.5, 4.05))]
    assert lines["model levels, width 64"] == [pytest.approx((9, 4.2)), pytest.approx((18, 3.9))]


def test_a_machine_whose_speed_changes_does_not_change_what_models_cost(tmp_path):
    """A Glow takes 1.5 times as much in each turn; the machine is three times as slow in some."""
    costs, runs = tmp_path / "costs.csv", tmp_path / "runs.csv"
    lines = ["x,glow_haar,32,8,3.0 9.0 3.0", "x,levels,32,8,2.0 6.0 2.0", "x_64,levels,32,8,1.0 1.0 1.0"]
    lines += ["x,glow_haar,32,8,9.0 9.0", "x,levels,32,8,6.0 6.0", "x_bfloat16,levels,32,8,1.0 3 1 3 3"]
    costs.write_text("\n".join([",".join(benchmark.COSTS), *lines]))
    rows = [("x", "levels", 32, 8, 100, seed, seconds, 4, 0, 4) for seed, seconds in ((1, 1), (2, 2), (3, 1))]
    rows += [("x", "glow_haar", 32, 8, 1000, 1, 90, 3, 0, 3), ("x_64", "levels", 32, 8, 100, 1, 7, 4, 0, 4)]
    runs.write_text("\n".join([",".join(benchmark.COLUMNS), *(",".join(map(str, row)) for row in rows)]))
    found = curves.seconds_per_image(costs, [str(runs)])
    assert found["x", "levels", "32", "8"] == pytest.approx(0.01)
    assert found["x", "glow_haar", "32", "8"] == pytest.approx(0.015)
    assert found["x_bfloat16", "levels", "32", "8"] == pytest.approx(0.005)
    assert found["x_64", "levels", "32", "8"] == pytest.approx(0.07)
    ((run,),) = [own for key, own in curves.curves([str(runs)], ("1",), found).items() if "glow" in key[1]]
    assert run.seconds == pytest.approx(15.0)
    assert curves.seconds_per_image("", [str(runs)]) == {}
    assert curves.compared({("x", "glow_haar", "1"): [run]}, [1.0]) == {}  # without levels


def test_models_are_compared_within_a_seed_and_over_groups_of_images():
    """Of two seeds a Glow takes 2 and 4 times as long, so that in equal time it is 0.1 and 0.2 behind."""
    found = {}
    for seed, factor in (("1", 2), ("2", 4)):
        found["x", "levels", seed] = curve(*((2.0**k, 4 - 0.1 * k) for k in range(9)))
        found["x", "glow", seed] = curve(*((factor * 2.0**k, 4 - 0.1 * k) for k in range(9)))
    (own,) = curves.compared(found, [16.0, 1e6]).values()
    assert own.seeds == ("1", "2")
    assert list(own.longer) == [(8, k) for k in range(9)]
    mean, low, high = own.longer[8, 3]
    assert mean == pytest.approx(8**0.5)
    assert low < 2 < 4 < high
    (levels, flow, seeds, images) = own.after[16.0]
    assert (levels, flow, seeds.mean) == pytest.approx((3.6, 3.75, 0.15))
    assert seeds.half_width == pytest.approx(0.1 / 2 * 12.706, abs=1e-4)  # Student's of two values
    assert images.half_width == pytest.approx(0)
    assert list(own.after) == [16.0]
    far = {
        ("x", "levels", "1"): found["x", "levels", "1"],
        ("x", "glow", "1"): curve((8.0, 5.0), (32.0, 4.5)),
    }
    (own,) = curves.compared(far, [16.0]).values()
    assert own.longer == {}
    assert own.after[16.0][2].mean == pytest.approx(4.75 - 3.6)


def test_the_clock_counts_the_steps_that_are_traced_as_the_others(monkeypatch):
    """Two epochs of ten steps of a second each, of which the first takes a minute to trace."""
    steps = [0.0, *itertools.accumulate([61.0, *[1.0] * 9])]
    second = [steps[-1] + 7, *(steps[-1] + 7 + k for k in range(1, 11))]
    times = iter([*steps, *second])
    monkeypatch.setattr(separability.time, "process_time", lambda: next(times))
    clock = Clock()
    for epoch in range(2):
        clock.on_epoch_begin(epoch)
        for step in range(10):
            clock.on_train_batch_end(step)
        assert clock.seconds == pytest.approx(10)
    assert clock.total == pytest.approx(20)
    assert SKIPPED < 10


def test_a_fit_finds_the_law_of_runs_and_what_it_misses():
    law = [(t, 3.4 + 1.8 * t**-0.35) for t in (10.0, 30.0, 100.0, 300.0, 1000.0)]
    found, missed = curves.fitted(curve(*law))
    assert (found(10_000.0), missed) == pytest.approx((3.4 + 1.8 * 10_000**-0.35, 0), abs=1e-4)
    noisy = [(t, bits + 0.01 * (-1) ** k) for k, (t, bits) in enumerate(law * 4)]
    assert curves.fitted(curve(*noisy))[1] == pytest.approx(0.01, rel=0.05)
