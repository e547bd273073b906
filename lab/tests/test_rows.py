"""The CSV that benchmarks add their rows to."""

import pytest

from lab.benchmarks.rows import added_to

COLUMNS = ("what", "bits")


def test_several_calls_share_a_file_and_no_row_is_lost(tmp_path):
    path = tmp_path / "found.csv"
    with added_to(path, COLUMNS) as add:
        add(("first", 3.5))
        assert path.read_text() == "what,bits\nfirst,3.5\n"  # at once, in case the benchmark stops
    with added_to(path, COLUMNS) as add:
        add({"bits": 4, "what": "second"})
        add({"what": "third"})
    assert path.read_text() == "what,bits\nfirst,3.5\nsecond,4\nthird,\n"


def test_a_file_of_another_benchmark_is_refused_and_kept(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("seed,seconds\n1,2\n")
    message = r"columns what,bits, or a new one. Received: .*seed,seconds"
    with pytest.raises(ValueError, match=message), added_to(path, COLUMNS):
        pass
    assert path.read_text() == "seed,seconds\n1,2\n"


def test_a_row_has_a_value_for_each_column_and_no_other(tmp_path):
    with added_to(tmp_path / "found.csv", COLUMNS) as add:
        for row in (("first",), ("first", 1, 2), {"what": "first", "nats": 1}):
            with pytest.raises(ValueError, match=r"zip|not in fieldnames"):
                add(row)
