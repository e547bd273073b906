"""The page that a run leaves."""

import html.parser
import re

import numpy as np
import pytest
from helpers import config, train
from small import make_small_images

from glow_tf.architectures import design_of
from glow_tf.core import html_page
from glow_tf.core.errors import DivergedError
from glow_tf.run import history, pictures, report_page
from glow_tf.run.flags_file import flagfile
from glow_tf.run.report import read_run
from glow_tf.run.report_page import run_page

FAST = {"tensorboard": False, "export": False, "part_epochs": 1, "finetune_epochs": 0, "sample_every": 0}
FAST |= {"train_examples": 64}


class Page(html.parser.HTMLParser):
    """Reads a page: its `text`, what it loads, and the tags that are never closed or never opened."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.loads, self.alts, self.open = "", [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.loads += [named[name] for name in ("src", "href") if name in named]
        self.alts += [named["alt"]] if named.get("alt") else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(path) -> Page:
    page = Page(path.read_text())
    assert page.open == []
    assert all(load.startswith("data:image/") for load in page.loads)  # it needs no other file
    return page


def workdir(folder, epochs=3, **changes):
    """Makes the workdir of a run that has no model, and returns its settings."""
    settings = config(folder, part_epochs=epochs, finetune_epochs=0, **changes)
    folder.mkdir(exist_ok=True)
    (folder / "flags.cfg").write_text(flagfile(settings))
    return settings


def write_history(folder, settings, *rows):
    num_parts = design_of(settings.model).num_parts
    columns = history.history_columns(num_parts, bool(settings.data.validation_examples))
    usual = {"phase": "part", "active_parts": "1", "seconds": 2, "eval_seconds": 1, "peak_memory_mb": 100}
    usual |= {"images_per_second": 50, "test_bpd_se": 0.1}
    whole = [
        {"epoch": k, "total_seconds": 2 * k, "test_bpd": 4 - k / 8, "train_bpd": 4 - k / 4, **usual, **row}
        for k, row in enumerate(rows, start=1)
    ]
    (folder / "history.csv").write_text(history.table(whole, columns))


def report_of(folder, *shown) -> Page:
    (folder / "report.html").write_bytes(run_page(read_run(folder, *shown)))
    return read_page(folder / "report.html")


def test_the_report_of_a_history_has_curves_and_says_what_went_wrong(tmp_path):
    settings = workdir(tmp_path, epochs=5, validation_examples=8)
    write_history(tmp_path, settings, *[{"validation_bpd": 3, "validation_bpd_se": 0.1}] * 2)
    grid = pictures.grid(make_small_images(np.random.default_rng(0)))
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "epoch_0002.png").write_bytes(pictures.png(grid))
    page = report_of(tmp_path)
    assert "Test 3.7500 ± 0.1000 bits/dim, after 2 epochs (of 5) and 0:04 of training." in page.text
    assert "2 of 5 epochs are finished. The run's command goes on." in page.text
    assert "Training took 0:04 (2.0 s per epoch), evaluation 0:02." in page.text
    assert "It used up to 100 MB of memory." in page.text
    assert f"glow-tf train --flagfile={tmp_path}/flags.cfg --workdir=ANOTHER" in page.text
    assert "Samples: epoch 2" in page.alts
    (curves,) = [alt for alt in page.alts if alt.startswith("Chart of bits/dim")]
    assert curves.endswith(": training, held out, test")


def test_texts_on_the_page_are_escaped(tmp_path):
    folder = tmp_path / "<script>alert(1)<script>&$x^2$\u202e"
    settings = workdir(folder, dataset='folder:"<b>&')
    write_history(folder, settings, {})
    page = report_of(folder)
    assert "<script>alert(1)<script>&$x^2$\\u202e" in page.text
    assert 'from folder:"<b>&' in page.text
    assert "<script" not in (folder / "report.html").read_text()


@pytest.mark.long
def test_a_run_ends_with_a_report(tmp_path, reports, capsys):
    train(config(tmp_path / "run", **FAST, parts="1"), eager=True)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; see {tmp_path / 'run' / 'report.html'}")
    page = read_page(tmp_path / "run" / "report.html")
    assert "Images of 8×8×1 from digits: 64 for train, 50 for test." in page.text


def test_a_run_that_diverges_is_reported(tmp_path, reports):
    own = {"learning_rate": "1e6", "rate_scaling": "none", "optimizer": "sgd", "clip_norm": 0.0}
    own |= {"warmup_steps": 0, "max_skipped_steps": 0}
    with pytest.raises(DivergedError) as raised:
        train(config(tmp_path / "run", **FAST | own), eager=True)
    page = read_page(tmp_path / "run" / "report.html")
    assert str(raised.value) in page.text
    assert "No epoch was finished." in page.text


def test_an_error_in_the_report_is_a_line_and_does_not_fail_the_run(tmp_path, reports, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise ValueError("no\nchart")

    monkeypatch.setattr(report_page.Figure, "savefig", fails)
    summary = train(config(tmp_path / "run", **FAST), eager=True)
    lines = capsys.readouterr().out.splitlines()
    assert "WARNING: report.html: it could not be written: ValueError: no chart" in lines
    assert summary["epochs"] == 1
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_chart_shows_names_as_they_are_and_leaves_out_what_is_not_finite():
    lines = [
        report_page.Line("$a_1$", [1, 2, 3], [1.0, np.nan, 2.0]),
        report_page.Line("nothing", [1], [np.inf]),
    ]
    svg = report_page.chart(lines, "epoch", "bits", settles=True).decode()
    assert "$a_1$" in svg
    assert "nothing" not in svg


def test_a_page_has_no_text_that_could_hide():
    page = html_page.page("a\x1b\udc80", html_page.paragraph("<i>"), html_page.items(["\u2066"]))
    assert re.search(rb"a\\x1b\\udc80", page)
    assert b'<p class="">&lt;i&gt;</p>' in page
    assert b"\\u2066" in page
