"""The benchmark of unusual images: what a stopped call has measured is not measured again."""

import csv

import numpy as np
import pytest
from absl import flags
from PIL import Image

from lab.benchmarks import outliers


class Fake:
    """A detector that takes no time."""

    threshold_, fits = 100.0, 0

    def __init__(self, prior, seed):
        self.prior = prior

    def fit(self, images):
        Fake.fits += 1
        return self


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outliers, "NoveltyDetector", Fake)
    monkeypatch.setattr(outliers, "_scores", lambda detector, images: 3 * [images.mean((1, 2, 3))])
    monkeypatch.setattr(Fake, "fits", 0)
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{k}.png")

    def call(*arguments):
        values = flags.FlagValues()
        outliers.define(values)
        values(["outliers", "--pictures=0.png,1.png", "--others=2.png", *arguments])
        outliers.main(values)
        with open("outliers.csv", newline="") as file:
            return list(csv.DictReader(file))

    return call


def test_every_cell_is_measured_once_also_if_a_call_was_stopped(run):
    cells = ["--model=a,b", "--good=20,60", "--seeds=0,1"]
    rows = run(*cells)
    assert Fake.fits == 2 * 2 * 2 * 2
    sets = ["good", *outliers.DAMAGES, "1", "2"]
    assert [row["set"] for row in rows if row["kind"] == "0"] == sets * 8
    with open("outliers.csv", "r+") as file:
        lines = file.readlines()
        file.seek(0)
        file.writelines(lines[:-2])
        file.truncate()
    assert run(*cells) == rows
    assert Fake.fits == 16 + 1
    assert run(*cells, "--seeds=2")[: len(rows)] == rows
