"""Hostile input of the lab's commands ends with a sentence, as that of the package's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_properties import NAMES, TEXTS, is_fine_or_names

from glow_tf.core.errors import ConfigError
from lab import CONFIGS
from lab.benchmarks import hostile, hostile_inputs, hostile_lab
from lab.planning.cluster_file import read_cluster_file
from lab.sections import Sections
from lab.studies.study import read_study


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return hostile_inputs.Seeds.make(tmp_path_factory.mktemp("seeds"), with_run=False)


SOME = {  # kind → inputs
    "flags of the lab": 10,
    "study files": 20,
    "tables of studies": 20,
    "cluster files": 40,
    "rates of a machine": 40,
}


@pytest.mark.parametrize("kind", SOME)
def test_damaged_input_is_fine_or_refused_with_a_sentence(kind, seeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hostile_inputs.without_long_work(seeds), hostile_lab.without_long_work():
        ends = hostile_inputs.ends_of(kind, hostile_lab.KINDS[kind][1], SOME[kind], seeds, tmp_path)
    assert set(ends) <= {"fine", "refused"}, ends
    assert "refused" in ends


def test_the_benchmark_shares_its_inputs_among_all_kinds():
    assert sum(hostile.shares(1000).values()) == 1000


def test_a_wrong_seed_of_a_tuning_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / "studies" / "digits_tiny.cfg").read_text().replace("seed = 100", "seed = x")
    (tmp_path / "own.cfg").write_text(text)
    with pytest.raises(ConfigError, match=r"study own: seed must be an integer. Received: --seed=x"):
        hostile_inputs.command("experiment", f"--study={tmp_path}/own.cfg")
    assert not (tmp_path / "runs").exists()


def test_sections_know_their_lines(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("# a comment\n[one]\nkey = 1\n\n[two]\nKey = 2\n  more\n[DEFAULT]\nx = 3\n")
    sections = Sections(path)
    assert sections.contents == {"one": {"key": "1"}, "two": {"Key": "2\nmore"}, "DEFAULT": {"x": "3"}}
    assert [sections.line_of("two"), sections.line_of("two", "Key"), sections.line_of("none")] == [5, 6, 0]


LINES = st.one_of(
    st.sampled_from(
        [
            *("[study]", "[all]", "[quick]", "[grid]", "[tune]", "[variant a]", "[variant b]", "[variant]"),
            *("seeds = 1 2", "baseline = a", "flagfile = configs/base.cfg", "title = x", "width = 8, 16"),
            *("[link]", "[devices]", "[device 1]", "mbit_per_s = 20", "latency_ms = 5", "count = 2"),
        ]
    ),
    st.builds("{} = {}".format, st.sampled_from(NAMES), TEXTS),
    TEXTS,
)


@pytest.mark.parametrize("reader", [read_study, read_cluster_file])
@given(lines=st.lists(LINES, max_size=12))
def test_any_text_as_a_study_or_a_cluster_is_read_or_refused_with_its_place(reader, lines, tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    assert is_fine_or_names(["a.cfg", "Received"], lambda: reader(path))
