"""Studies: what the file says, which runs follow, what the table holds, and going on after a kill."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import ROOT
from test_properties import NAMES, TEXTS, is_fine_or_names

from glow_tf.architectures import design_of
from glow_tf.architectures.schedule import epoch_costs, phases_of
from glow_tf.config import RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.run.workdir import flagfile
from lab import CONFIGS, children
from lab.benchmarks.rows import reproducible
from lab.experiment import experiment_of
from lab.sections import Sections
from lab.studies.experiment import _Clock, command_of, run_study
from lab.studies.runs import runs_of, tuned_values, tuning_runs
from lab.studies.study import read_study

TEXT = """
[study]
title = A question
flagfile = configs/defaults.cfg
seeds = 0 3
baseline = one

[all]
width = 16
train_examples = 100

[quick]
width = 8

[tune]
learning_rate = 1e-3 2e-3
validation_examples = 10
seed = 9

[variant one]
parts = 1

[variant two]
title = two parts
parts = across_block:2
schedule = alternating
equal_time = one
"""


def study_file(folder, text=TEXT):
    path = folder / "question.cfg"
    path.write_text(text)
    return path


def configure(flags):
    settings = {"num_blocks": 1, "part_epochs": 2, "finetune_epochs": 1, **flags}
    types = {"width": int, "part_epochs": int, "seed": int, "train_examples": int, "validation_examples": int}
    settings = {k: types.get(k, lambda v: v)(v) for k, v in settings.items()}
    settings = {k: v == "true" if v in ("true", "false") else v for k, v in settings.items()}
    settings["sample_every"] = 0
    return RunConfig.from_settings(settings)


def test_a_study_file_becomes_runs_of_each_seed_and_variant(tmp_path):
    study = read_study(study_file(tmp_path))
    assert (study.name, study.title, study.baseline, study.seeds) == ("question", "A question", "one", (0, 3))
    assert [v.title for v in study.variants] == ["one", "two parts"]
    runs = runs_of(study, tmp_path, configure, {"one": "2e-3", "two": "1e-3"})
    assert [(r.variant.name, r.seed) for r in runs] == [("one", 0), ("two", 0), ("one", 3), ("two", 3)]
    assert [r.config.train.learning_rate for r in runs] == ["2e-3", "1e-3"] * 2
    assert {r.config.model.width for r in runs} == {16}
    assert runs[1].workdir == tmp_path / "two" / "seed_0"
    assert runs[0].epoch_costs == [1.0] * 3
    quick = runs_of(study, tmp_path, configure, {}, quick=True)
    assert [(r.variant.name, r.seed, r.config.model.width) for r in quick] == [("one", 0, 8), ("two", 0, 8)]
    fewer = read_study(study_file(tmp_path, TEXT + "seeds = 3\n"))
    assert [(r.variant.name, r.seed) for r in runs_of(fewer, tmp_path, configure, {})] == [
        ("one", 0),
        ("one", 3),
        ("two", 3),
    ]


def test_every_variant_is_tuned_by_its_own_validation_bpd(tmp_path):
    study = read_study(study_file(tmp_path))
    runs = tuning_runs(study, tmp_path, configure)
    assert [(r.variant.name, r.value, r.seed) for r in runs] == [
        ("one", "1e-3", 9),
        ("one", "2e-3", 9),
        ("two", "1e-3", 9),
        ("two", "2e-3", 9),
    ]
    assert {r.config.data.validation_examples for r in runs} == {10}
    fixed = TEXT.replace("parts = 1", "parts = 1\nlearning_rate = 5e-4")
    fixed = read_study(study_file(tmp_path, fixed))
    assert {r.variant.name for r in tuning_runs(fixed, tmp_path, configure)} == {"two"}
    for run, bpd in zip(runs, ("4.0", "3.0", "3.5", None), strict=True):
        run.workdir.mkdir(parents=True)
        if bpd:
            (run.workdir / "history.csv").write_text(f"epoch,validation_bpd\n1,9\n2,{bpd}\n")
        else:
            run.fail("Training stopped: not\nfinite")
    assert tuned_values(runs) == {"one": "2e-3", "two": "1e-3"}
    runs[2].fail("Training stopped")
    with pytest.raises(ConfigError, match="all runs of two failed"):
        tuned_values(runs)


GRID = TEXT.replace("[tune]", "[grid]\nschedule = alternating sequential\nflow_steps = 2 4\n\n[tune]")
GRID = GRID.replace("schedule = alternating\nequal_time", "equal_time")


def test_a_grid_makes_a_variant_of_each_combination(tmp_path):
    study = read_study(study_file(tmp_path, GRID))
    cells = [("alternating", "2"), ("alternating", "4"), ("sequential", "2"), ("sequential", "4")]
    assert study.grid == {"schedule": ("alternating", "sequential"), "flow_steps": ("2", "4")}
    names = [f"{name}_{schedule}_{steps}" for schedule, steps in cells for name in ("one", "two")]
    assert [v.name for v in study.variants] == names
    assert study.baseline == "one_alternating_2"
    last = study.variants[-1]
    assert last.title == "two parts, schedule sequential, flow_steps 4"
    assert last.row == ("two parts", "sequential")
    assert last.equal_time == "one_sequential_4"
    assert dict(last.flags) == {"parts": "across_block:2", "schedule": "sequential", "flow_steps": "4"}


def test_a_finished_run_of_other_flags_does_not_count(tmp_path):
    study = read_study(study_file(tmp_path))
    (run, *_) = runs_of(study, tmp_path, configure, {"one": "2e-3", "two": "1e-3"})
    run.check()
    run.workdir.mkdir(parents=True)
    (run.workdir / "flags.cfg").write_text(flagfile(run.config))
    run.check()
    (other, *_) = runs_of(study, tmp_path, configure, {"one": "1e-3", "two": "1e-3"})
    with pytest.raises(ConfigError, match=r"learning_rate=1e-3 \(was 2e-3\)"):
        other.check()


def test_predicted_costs_are_of_the_images_that_a_run_had(tmp_path):
    study = read_study(study_file(tmp_path))
    run = runs_of(study, tmp_path, configure, {"one": "2e-3", "two": "1e-3"})[1]
    model = dataclasses.replace(run.config.model, num_blocks=2)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))
    before = run.epoch_costs
    (run.workdir / "checkpoints").mkdir(parents=True)
    (run.workdir / "checkpoints" / "model.json").write_text('{"image_shape": [8, 8, 1]}')
    layouts = design_of(dataclasses.replace(model, image_shape=(8, 8, 1))).layouts
    assert run.epoch_costs == epoch_costs(layouts, phases_of(run.config))
    assert run.epoch_costs != before


def test_the_time_that_a_study_takes_is_of_the_shape_of_its_images(tmp_path, monkeypatch):
    """It is known from the first run that has read them; a guess for those to come made hours of minutes."""
    runs = runs_of(read_study(study_file(tmp_path)), tmp_path, configure, {"one": "2e-3", "two": "1e-3"})
    runs = [run for run in runs if run.variant.name == "one"]  # of equal cost
    now = [0.0]
    monkeypatch.setattr("lab.studies.experiment.time.monotonic", lambda: now[0])
    clock = _Clock(runs)
    now[0] = 60.0
    (runs[0].workdir / "checkpoints").mkdir(parents=True)
    (runs[0].workdir / "checkpoints" / "model.json").write_text('{"image_shape": [8, 8, 1]}')
    assert clock.left(runs[0], 0.0, 0.5) == "3:00"
    assert clock.left(runs[0], 0.25, 0.5) == "6:00"  # a quarter was over before
    runs[0].fail("Training stopped")
    clock.finish(runs[0], 0.0)
    assert clock.left() == "1:00"
    runs[1].workdir.mkdir(parents=True)
    runs[1].fail("Training stopped")
    clock.finish(runs[1], 0.0)
    assert clock.left() == "0:00"


def test_predicted_costs_are_of_the_size_that_images_are_scaled_to(tmp_path):
    """Six blocks need images of 64×64 or more; the costs must not assume 32×32."""
    study = read_study(study_file(tmp_path))
    run = runs_of(study, tmp_path, configure, {"one": "2e-3", "two": "1e-3"})[0]
    config = run.config
    deep = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, num_blocks=6),
        data=dataclasses.replace(config.data, image_size=64),
    )
    run = dataclasses.replace(run, config=deep)
    assert run.epoch_costs == [1.0] * 3
    layouts = design_of(dataclasses.replace(deep.model, image_shape=(64, 64, 3))).layouts
    assert run.cost() == 3 * sum(layout.forward_macs for layout in layouts) * 3 * 100


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("baseline = one", "baseline = three", "must name a variant, not 'three'"),
        (
            "width = 16",
            "widht = 16",
            r"\[all\] must hold flags of a run other than workdir, not 'widht'\. Received: .*, line 9$",
        ),
        ("[quick]", "[fast]", r"not 'fast'"),
        ("seeds = 0 3", "seeds = 0 0", "seeds must be different integers"),
        ("seeds = 0 3", "seeds = ²", "seeds must be different integers"),
        ("equal_time = one", "seeds = 1", r"seeds must be some of \[0, 3\], not '1'"),
        ("[variant two]", "[variant ../two]", "a variant must have a name without /, not '../two'"),
        ("[tune]", f"[grid]\nwidth = {' '.join(map(str, range(1, 9999)))}\n[tune]", "10000 variants at most"),
        ("learning_rate = 1e-3 2e-3", "learning_rate = 1e-3", "must give one flag several values"),
        ("validation_examples = 10", "test_examples = 10", "must set validation_examples"),
        ("[study]", "study]", "Received: study="),
        ("[tune]", "[grid]\nparts = 1 2\n[tune]", "must hold flags that no variant sets, not parts"),
        ("[tune]", "[grid]\nwidth = 8 8\n[tune]", "must have different values"),
        ("[tune]", "[grid]\ndataset = folder:a/b\n[tune]", "must have different values without /"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, before, after, message):
    with pytest.raises(ConfigError, match=message):
        read_study(study_file(tmp_path, TEXT.replace(before, after)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_study(tmp_path / "none.cfg")


STUDIES = sorted(path.stem for path in (CONFIGS / "studies").glob("*.cfg"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_the_repository_makes_its_runs(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of(name)
    study, folder, configure = experiment.study, experiment.folder, experiment.configure
    runs = [
        *tuning_runs(study, folder, configure),
        *runs_of(study, folder, configure, {}),
        *runs_of(study, folder, configure, {}, quick=True),
    ]
    assert runs
    assert all(run.cost() > 0 for run in runs)


@pytest.mark.parametrize(("name", "scaling"), [("batch_sizes", "size"), ("ordering_small", "none")])
def test_the_rates_of_a_study_are_scaled_as_its_flagfile_says(name, scaling, monkeypatch, tmp_path):
    """A typed rate is not scaled; a study's rates keep their meaning."""
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of(name)
    runs = tuning_runs(experiment.study, experiment.folder, experiment.configure)
    assert {run.config.train.rate_scaling for run in runs} == {scaling}


def test_a_program_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXT.replace("parts = 1", "parts = 1\nprogram = absent.py").replace(
        "defaults.cfg", "quickstart.cfg"
    )
    text = text[: text.index("[tune]")] + text[text.index("[variant one]") :]
    experiment = experiment_of(str(study_file(tmp_path, text)), output=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"program of variant one .* Received: program='absent.py'"):
        run_study(experiment)
    assert not (tmp_path / "out" / "one").exists()


def test_a_variant_may_be_a_script_with_flags_of_its_own(tmp_path):
    one, two = read_study(study_file(tmp_path)).variants
    assert command_of(two) == children.command("train")
    script = dataclasses.replace(one, program="benchmarks/train_normflows.py --width=8")
    assert command_of(script)[1:] == [str(ROOT / "lab/benchmarks/train_normflows.py"), "--width=8"]


def test_what_no_run_can_be_is_named_before_the_tuning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXT.replace("parts = 1", "parts = 1\nlearning_rate = 3e-3\nprogram = absent.py")
    own = experiment_of(str(study_file(tmp_path, text)), output=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"Received: program='absent.py'"):
        run_study(own)
    assert not (tmp_path / "out").exists()


def test_the_reason_of_an_earlier_attempt_is_not_that_of_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    text = TEXT.replace("parts = 1", f"parts = 1\nprogram = {tmp_path}/killed.py")
    text = text[: text.index("[tune]")] + text[text.index("[variant one]") :]
    own = experiment_of(str(study_file(tmp_path, text)), output=str(tmp_path / "out"))
    folder = tmp_path / "out" / "one" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "output.txt").write_text("Error: Training stopped: of an earlier attempt\n")
    with pytest.raises(OSError, match="ended with status -9: exit status -9"):
        run_study(own)


def experiment(folder):
    command = [sys.executable, "-m", "lab.experiment", "--study=digits_tiny", "--quick", f"--output={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def measured(folder):
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [reproducible(row) for row in rows]


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_table(tmp_path):
    whole = experiment(tmp_path / "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    cut = experiment(tmp_path / "cut")
    history = tmp_path / "cut" / "across_2" / "seed_0" / "history.csv"
    deadline = time.monotonic() + 200
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(cut.pid, signal.SIGKILL)
    cut.communicate()
    again = experiment(tmp_path / "cut")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "finished before" in output
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_sections_know_their_lines(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("# a comment\n[one]\nkey = 1\n\n[two]\nKey = 2\n  more\n[DEFAULT]\nx = 3\n")
    sections = Sections(path)
    assert sections.contents == {"one": {"key": "1"}, "two": {"Key": "2\nmore"}, "DEFAULT": {"x": "3"}}
    assert [sections.line_of("two"), sections.line_of("two", "Key"), sections.line_of("none")] == [5, 6, 0]


def test_a_wrong_seed_of_a_tuning_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / "studies" / "digits_tiny.cfg").read_text().replace("seed = 100", "seed = x")
    (tmp_path / "own.cfg").write_text(text)
    with pytest.raises(ConfigError, match=r"study own: seed must be an integer. Received: --seed=x"):
        run_study(experiment_of(f"{tmp_path}/own.cfg"))
    assert not (tmp_path / "runs").exists()


LINES = st.one_of(
    st.sampled_from(
        [
            *("[study]", "[all]", "[quick]", "[grid]", "[tune]", "[variant a]", "[variant b]", "[variant]"),
            *("seeds = 1 2", "baseline = a", "flagfile = configs/defaults.cfg", "title = x", "width = 8, 16"),
        ]
    ),
    st.builds("{} = {}".format, st.sampled_from(NAMES), TEXTS),
    TEXTS,
)


@given(lines=st.lists(LINES, max_size=12))
def test_any_text_as_a_study_is_read_or_refused_with_its_place(lines, tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    assert is_fine_or_names(["a.cfg", "Received"], lambda: read_study(path))
