"""What the table of cuts is computed from: gaps within a seed, lengths end to end, pooled deviations."""

import math
import statistics

import pytest
from scipy import stats

from lab.benchmarks.paper import costs, figure
from lab.studies.figures import write_png

TIMES = {"end_to_end_8": 0.65, "end_to_end": 1.0, "across_2": 0.8, "by_block_2": 0.7, "across_3": 0.5}
TIMES |= {"pixels": 1.0, "pixels_across_2": 0.6}
BITS = {
    "end_to_end_8": (3.5, 3.6, 3.7),
    "end_to_end": (3.4, 3.5, 3.6),
    "across_2": (3.5, 3.58, 3.72),
    "by_block_2": (3.6, 3.72, 3.82),
    "across_3": (3.55,),
    "pixels": (3.45,),
    "pixels_across_2": (3.55,),
}


@pytest.fixture(scope="module")
def found():
    rows = [
        {"variant": name, "seed": str(seed), "outcome": "finished", "epoch": "1", "test_bpd": str(bpd)}
        for name, values in BITS.items()
        for seed, bpd in enumerate(values)
    ]
    return costs(rows, TIMES)


def test_a_gap_is_that_within_a_seed(found):
    assert found["across_2"].behind.mean == pytest.approx(0.1)
    half_width = stats.t.ppf(0.975, 2) * statistics.stdev([0.1, 0.08, 0.12]) / 3**0.5
    assert found["across_2"].behind.half_width == pytest.approx(half_width)
    assert found["pixels_across_2"].behind.mean == pytest.approx(0.1)  # behind its own squeeze


def test_equal_time_lies_between_two_lengths_end_to_end(found):
    share = math.log(0.8 / 0.65) / math.log(1 / 0.65)
    assert found["across_2"].at_equal_time.mean == pytest.approx(0.1 - 0.1 * (1 - share))
    assert found["end_to_end_8"].at_equal_time.mean == pytest.approx(0)
    assert found["across_3"].at_equal_time is None  # shorter than any
    assert found["pixels_across_2"].at_equal_time is None  # of another flow


def test_one_seed_has_the_deviation_of_those_with_several(found):
    gaps = [(0.1, 0.1, 0.1), (0.1, 0.08, 0.12), (0.2, 0.22, 0.22)]
    deviation = statistics.fmean(map(statistics.variance, gaps)) ** 0.5
    assert found["across_3"].behind.mean == pytest.approx(0.15)
    assert found["across_3"].behind.half_width == pytest.approx(stats.t.ppf(0.975, 6) * deviation)
    assert found["across_3"].behind.count == 1


def test_the_figure_can_be_drawn(found, tmp_path):
    write_png(figure(found), tmp_path / "paper.png")
    assert (tmp_path / "paper.png").stat().st_size > 5000
