"""What a study's table says, and the report that says it."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from small import ROOT
from test_study import TEXT, study_file

from lab.studies import report
from lab.studies.comparison import Estimate, estimate, lengths, outcomes, seconds_to
from lab.studies.study import read_study
from lab.studies.table import read_table

BPD = {"one": (4.0, 4.1, 4.2), "two": (4.3, 4.35, 4.55)}


def table(folder, failed=()):
    lines = ["variant,seed,outcome,predicted_cost,epoch,phase,total_seconds,test_bpd"]
    for variant, values in BPD.items():
        cost, phase = (1.0, "end_to_end") if variant == "one" else (0.5, "part")
        for seed, bpd in enumerate(values):
            outcome = "Training stopped: NaN" if (variant, seed) in failed else "finished"
            for epoch in (1, 2, 3):
                row = [variant, seed, outcome, cost, epoch, phase, 10 * epoch * cost, bpd + 3 - epoch]
                lines.append(",".join(map(str, row)))
    path = folder / "results.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_estimate_is_that_of_scipy():
    values = [1.0, 2.0, 4.0, 4.5]
    found = estimate(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.mean - found.half_width, found.mean + found.half_width], [low, high])
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert math.isnan(estimate([1.0]).half_width)
    assert estimate([0.0, 0.0]) == Estimate(0.0, 0.0, 0.0, 2)


def test_the_interval_of_differences_is_that_of_the_paired_test():
    own, other = (4.3, 4.35, 4.55), (4.0, 4.1, 4.2)
    found = estimate([a - b for a, b in zip(own, other, strict=True)])
    low, high = stats.ttest_rel(own, other).confidence_interval(0.95)
    np.testing.assert_allclose([found.mean - found.half_width, found.mean + found.half_width], [low, high])


def test_variants_are_compared_within_seeds(tmp_path):
    study = read_study(study_file(tmp_path))
    one, two = outcomes(study, read_table(table(tmp_path)))
    assert one.test_bpd.mean == pytest.approx(4.1)
    assert one.behind is None
    differences = np.subtract(BPD["two"], BPD["one"])
    assert two.behind.mean == pytest.approx(differences.mean())
    assert two.behind.standard_error == pytest.approx(stats.sem(differences))
    assert two.behind_at_equal_time == two.behind  # its equal_time is the baseline here
    assert (two.time, two.predicted_time) == (0.5, 0.5)


def test_an_epoch_that_other_work_disturbed_does_not_count_as_time(tmp_path):
    study = read_study(study_file(tmp_path))
    path = table(tmp_path)
    header, *lines = path.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    for row in cells:
        if row[:2] == ["two", "0"] and row[4] in "23":  # the second epoch took 500 seconds
            row[6] = str(float(row[6]) + 495)
    path.write_text("\n".join([header, *map(",".join, cells)]) + "\n")
    _, two = outcomes(study, read_table(path))
    assert two.time == 0.5
    for row in cells:
        if row[:1] == ["two"] and row[4] == "3":  # the last epoch is of another kind, and took 10 s
            row[5], row[6] = "end_to_end", str(float(row[6]) + 5)
    path.write_text("\n".join([header, *map(",".join, cells)]) + "\n")
    _, two = outcomes(study, read_table(path))
    assert two.time == pytest.approx(20 / 30)


def test_times_of_different_machines_are_not_compared(tmp_path):
    study = read_study(study_file(tmp_path))
    one, two = study.variants
    elsewhere = dataclasses.replace(two, machine="elsewhere")
    found = outcomes(dataclasses.replace(study, variants=(one, elsewhere)), read_table(table(tmp_path)))
    assert math.isnan(found[1].time)
    assert found[1].predicted_time == 0.5


def test_a_failed_run_is_counted_and_left_out_of_means(tmp_path):
    study = read_study(study_file(tmp_path))
    _, two = outcomes(study, read_table(table(tmp_path, failed={("two", 0)})))
    assert two.finished == (1, 2)
    assert two.failures == ("Training stopped: NaN",)
    assert two.behind.mean == pytest.approx(np.mean([0.25, 0.35]))


def test_predictions_count_images_and_are_of_models_of_one_size(tmp_path):
    path = table(tmp_path)
    header, *lines = path.read_text().splitlines()
    images = {"one": 100, "two": 50}
    lines = [f"{line},2,{images[line[:3]] / 2}" for line in lines]
    path.write_text("\n".join([f"{header},seconds,images_per_second", *lines]) + "\n")
    study = read_study(study_file(tmp_path))
    assert [o.predicted_time for o in outcomes(study, read_table(path))] == [1.0, 0.25]
    wide = read_study(study_file(tmp_path, TEXT.replace("title = two parts", "width = 32")))
    assert math.isnan(outcomes(wide, read_table(path))[1].predicted_time)


def test_the_report_holds_the_numbers_and_nothing_from_outside(tmp_path):
    study, csv = study_file(tmp_path), table(tmp_path, failed={("two", 0)})
    command = [sys.executable, "-m", "lab.report", f"--study={study}", f"--csv={csv}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert "4.1000 ± 0.0577" in page
    assert "+0.3000 [-0.3353, +0.9353]" in page
    assert "Training stopped: NaN" in page
    assert "<svg" in page
    assert "src=" not in page.replace('src="data:', "")
    assert "| two parts | 2 (+1 failed) | 3 |" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "curves.png").stat().st_size > 5000


def test_a_grid_is_reported_as_a_table_of_its_cells_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lab.studies.figures", None)  # as if it could not be imported
    path = tmp_path / "grid.cfg"
    path.write_text("[grid]\nschedule = end_to_end\nflow_steps = 2 4\n[variant a]\n[variant b]\n")
    lines = ["variant,seed,outcome,predicted_cost,epoch,phase,total_seconds,test_bpd"]
    for name, outcome, bpd in (("a", "finished", 4.5), ("b", "Training stopped: NaN", 9)):
        lines.append(f"{name}_end_to_end_2,0,{outcome},1,1,end_to_end,1,{bpd}")
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    text = report.write_report(read_study(path), tmp_path / "results.csv", tmp_path / "report")
    assert text.splitlines() == [
        "| variant | schedule | flow_steps 2 | flow_steps 4 |",
        "| --- | --- | --- | --- |",
        "| a | end_to_end | 4.5000 | – |",
        "| b | end_to_end | – (+1 failed) | – |",
    ]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Training stopped: NaN" in page
    assert "<svg" not in page


def test_no_curve_is_cut_off_and_each_dot_is_beside_its_label(tmp_path):
    from lab.studies import figures

    study = read_study(study_file(tmp_path))
    rows = read_table(table(tmp_path))
    rows[0]["test_bpd"] = "900"  # a first epoch far above all others
    figure = figures.learning_curves(study, rows)
    for axis in figure.axes:
        low, high = axis.get_ylim()
        values = [float(row["test_bpd"]) for row in rows]
        assert low < min(values)
        assert high > 900
        # The settled values still have most of the height.
        bottom, top, whole = axis.transData.transform([(0, low), (0, max(values[1:])), (0, high)])[:, 1]
        assert (top - bottom) / (whole - bottom) > 0.5
    found = outcomes(study, rows)
    (axis,) = figures.gaps([dataclasses.replace(o, behind_at_equal_time=None) for o in found]).axes
    dots = [line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert dots == list(axis.get_yticks())
    assert max(axis.get_ylim()) >= max(dots) + 0.5


def test_the_figure_of_the_tuning_shows_how_far_each_value_is_behind_the_best(tmp_path):
    from lab.studies import figures

    def row(variant, value, bpd, outcome="finished"):
        return {"variant": variant, "learning_rate": value, "outcome": outcome, "validation_bpd": bpd}

    path = tmp_path / "tuned.cfg"
    path.write_text(
        "[tune]\nlearning_rate = 1e-2 2e-2 4e-2\nvalidation_examples = 8\n[variant a]\ngroup = before\n"
        "[variant b]\ngroup = after\n[variant not_run]\ngroup = after\n"
        "[variant halved]\ngroup = halved\n"
    )
    rows = [row("a", "1e-2", "5.0"), row("a", "1e-2", "4.1"), row("a", "2e-2", "4.0"), row("a", "4e-2", "9")]
    rows += [
        row("b", "1e-2", "4.2"),
        row("b", "2e-2", "", "Training stopped"),
        row("b", "4e-2", "", "unfinished"),
    ]
    rows += [row("not_run", value, "", "unfinished") for value in ("1e-2", "2e-2", "4e-2")]
    rows += [row("halved", value, bpd) for value, bpd in (("1e-2", "4.5"), ("2e-2", "4.4"))]
    before, after, halved = figures.tuning(read_study(path), rows).axes
    np.testing.assert_allclose(halved.lines[0].get_xydata(), [[0.01, 0.1], [0.02, 0.0]], atol=1e-9)
    inside, outside = before.lines
    np.testing.assert_allclose(inside.get_xydata(), [[0.01, 0.1], [0.02, 0.0]], atol=1e-9)
    np.testing.assert_allclose(outside.get_xydata(), [[0.04, figures.TUNING_SHOWN]])
    inside, outside = after.lines
    np.testing.assert_allclose(inside.get_xydata(), [[0.01, 0.0]], atol=1e-9)
    np.testing.assert_allclose(outside.get_xydata(), [[0.02, figures.TUNING_SHOWN]])


@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_time_to_a_bpd_is_found_between_runs_of_several_lengths(tmp_path):
    path = tmp_path / "long.cfg"
    path.write_text(
        "[study]\nseeds = 0 1\n"
        + "".join(f"[variant {name}]\ngroup = {name[0]}\n" for name in ("a_4", "a_1", "b_1", "b_2"))
    )
    ends = {"a_1": (10, 4.25), "a_4": (1000, 4.05), "b_1": (40, 3.95), "b_2": (80, 3.85)}
    lines = ["variant,seed,outcome,predicted_cost,epoch,phase,total_seconds,test_bpd"]
    for name, (seconds, bpd) in ends.items():
        for seed in (0, 1):
            own = bpd + (2 * seed - 1) * (seconds % 7) / 100
            lines.append(f"{name},{seed},finished,1,1,end_to_end,{seconds},{own}")
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    study, rows = read_study(path), read_table(tmp_path / "results.csv")
    found = lengths(study, rows)
    assert list(found) == ["a", "b"]
    assert found["a"] == [(10, pytest.approx(4.25)), (1000, pytest.approx(4.05))]
    assert seconds_to(4.15, found["a"]) == pytest.approx(100)  # half of the way, in the logarithm
    assert math.isnan(seconds_to(4.0, found["a"]))
    text = report.write_report(study, tmp_path / "results.csv", tmp_path / "report")
    assert text.splitlines()[-4:] == [
        "| seconds to a test bpd of | 4.2 | 4.1 | 4.0 | 3.9 |",
        "| --- | --- | --- | --- | --- |",
        "| a | 32 | 316 | – | – |",
        "| b | – | – | – | 57 |",
    ]
    assert (tmp_path / "report" / "lengths.png").stat().st_size > 0
    for far in ("149.0", "1e18", "inf", "nan"):
        (tmp_path / "results.csv").write_text("\n".join(lines).replace("4.28", far) + "\n")
        text = report.write_report(study, tmp_path / "results.csv", tmp_path / "report")
        assert text.splitlines()[-1].startswith("| b | ")
        assert len(text.splitlines()[-1].split("|")) < 12
