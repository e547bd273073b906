"""The table of a study: what its rows say, and which of them stand for runs that need not run again."""

import csv

import pytest
from test_study import TEXT, configure, study_file

from glow_tf.core.errors import ConfigError
from lab.studies.runs import runs_of
from lab.studies.study import read_study
from lab.studies.table import read_table, table_of, with_saved_rows

VALUES = {"one": "2e-3", "two": "1e-3"}
HISTORY = {
    "one": ("end_to_end,1", "end_to_end,1", "end_to_end,1"),
    "two": ("part,1", "part,2", "end_to_end,1 2"),
}


def runs_in(folder, text=TEXT, values=VALUES):
    """The study and its runs, with workdirs under the folder."""
    folder.mkdir(exist_ok=True)
    study = read_study(study_file(folder, text))
    return study, runs_of(study, folder / "runs", configure, values)


def finish(run):
    run.workdir.mkdir(parents=True)
    lines = ["epoch,phase,active_parts,total_seconds,train_bpd,local_bpd_2,test_bpd"]
    local = "4" if run.variant.name == "two" else ""
    for epoch, phase in enumerate(HISTORY[run.variant.name], start=1):
        lines.append(f"{epoch},{phase},{2 * epoch},{6 - epoch},{local},{7 - epoch}")
    (run.workdir / "history.csv").write_text("\n".join(lines) + "\n")
    (run.workdir / "summary.json").write_text('{"device": "a CPU"}')


@pytest.fixture
def path(tmp_path):
    """A table of two finished runs, one of each variant, and one that failed."""
    study, runs = runs_in(tmp_path / "here")
    for run in runs[:2]:
        finish(run)
    runs[2].workdir.mkdir(parents=True)
    runs[2].fail("Training stopped: NaN")
    path = tmp_path / "results.csv"
    path.write_text(table_of(study, runs[:3]))
    return path


def without_settings(path):
    """Makes the table one of the time before it had the columns."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        names = [name for name in rows[0] if name not in ("settings", "device")]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_the_table_has_a_row_a_run_and_epoch(tmp_path):
    study = read_study(study_file(tmp_path))
    runs = runs_of(study, tmp_path, configure, {"one": "2e-3", "two": "1e-3"})[:2]
    for run in runs:
        run.workdir.mkdir(parents=True)
    (runs[0].workdir / "history.csv").write_text("epoch,train_bpd,local_bpd_1,test_bpd\n1,5,5,6\n2,4,4,5\n")
    (runs[0].workdir / "summary.json").write_text("{}")
    runs[1].fail("Training stopped: NaN")
    rows = list(csv.DictReader(table_of(study, runs).splitlines()))
    assert [(r["variant"], r["learning_rate"], r["outcome"], r["epoch"], r["test_bpd"]) for r in rows] == [
        ("one", "2e-3", "finished", "1", "6"),
        ("one", "2e-3", "finished", "2", "5"),
        ("two", "1e-3", "Training stopped: NaN", "", ""),
    ]
    assert float(rows[0]["predicted_cost"]) == 1


@pytest.mark.parametrize("old", [False, True])
def test_what_a_table_holds_is_not_run_again(path, tmp_path, old):
    if old:
        without_settings(path)
    study, runs = runs_in(tmp_path / "there")
    found = with_saved_rows(study, runs, path)
    assert [run.finished for run in found] == [True, True, True, False]
    assert [run.failure for run in found] == ["", "", "Training stopped: NaN", ""]
    before, again = read_table(path), list(csv.DictReader(table_of(study, found[:3]).splitlines()))
    assert again == ([{**row, "settings": "", "device": ""} for row in before] if old else before)
    assert old or [row["device"] for row in before] == ["a CPU"] * 6 + [""]
    path.write_text(table_of(study, found[:3]))
    assert [run.finished for run in with_saved_rows(study, runs, path)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        (TEXT.replace("width = 16", "width = 32"), VALUES, "one, seed 0, with settings="),
        (TEXT.replace("width = 16", "width = 16\npart_epochs = 4"), VALUES, "with settings="),
        (TEXT, {**VALUES, "one": "1e-3"}, "2 more, one/0/2e-3, one/3/2e-3$"),
        (TEXT.replace("seeds = 0 3", "seeds = 0"), VALUES, "1 more, one/3/2e-3$"),
        (TEXT.replace("[variant two]", "[variant three]"), {**VALUES, "three": "1e-3"}, "two/0/1e-3$"),
        (
            TEXT.replace("learning_rate = 1e-3 2e-3", "width = 8 16"),
            {"one": "8", "two": "8"},
            "learning_rate",
        ),
        (TEXT[: TEXT.index("[tune]")] + TEXT[TEXT.index("[variant one]") :], {}, "with settings="),
    ],
)
def test_results_of_another_study_are_neither_taken_nor_lost(path, tmp_path, text, values, message):
    study, runs = runs_in(tmp_path / "there", text, values)
    with pytest.raises(ConfigError, match=rf"Move it away, or give another --output\. Received: .*{message}"):
        with_saved_rows(study, runs, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("schedule = alternating", "schedule = sequential"), ""),  # the same for two epochs
        (TEXT.replace("schedule = alternating", "schedule = simultaneous"), "with phase 'part' in epoch 1"),
        (TEXT.replace("width = 16", "width = 16\npart_epochs = 4"), "with 3 epochs, not 5"),
    ],
)
def test_a_table_that_does_not_tell_the_settings_must_fit_the_phases(path, tmp_path, text, message):
    without_settings(path)
    study, runs = runs_in(tmp_path / "there", text)
    if not message:
        assert with_saved_rows(study, runs, path)[1].finished
        return
    with pytest.raises(ConfigError, match=f"Received: .*{message}"):
        with_saved_rows(study, runs, path)


def test_columns_of_variants_that_were_removed_go_away(path, tmp_path):
    rows = path.read_text().splitlines()
    path.write_text("\n".join(line for line in rows if not line.startswith("two")) + "\n")
    text = TEXT[: TEXT.index("[variant two]")]
    study, runs = runs_in(tmp_path / "there", text, {"one": "2e-3"})
    assert "local_bpd_2" in rows[0]
    found = with_saved_rows(study, runs, path)
    assert "local_bpd_2" not in table_of(study, found)
    assert table_of(study, found).count("\n") == 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "line 2 must have epoch 1 of its run, not 2"),
        (lambda rows: [*rows, *rows[1:4]], "line 9 must have epoch 4 of its run, not 1"),
        (lambda rows: [rows[0], *rows[2:]], "line 2 must have epoch 1 of its run, not 2"),
        (lambda rows: [*rows, rows[-1]], "line 9 must have epoch 2 of its run, not none"),
    ],
)
def test_rows_that_are_out_of_order_or_doubled_are_refused(path, spoil, message):
    path.write_text("\n".join(spoil(path.read_text().splitlines())) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_table(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(
        ConfigError, match=r"must have the columns variant, seed, outcome and predicted_cost\. Received"
    ):
        read_table(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_table(tmp_path / "none.csv")
