"""Measures what a prior is worth: runs on few images that start from it, and runs that start anew.

    python -m lab.benchmarks.prior --pictures=pictures --tiles=PATH --data_dir=PATH --output=prior.csv

Sets of 32×32 images: squares of the photographs that `prior_pictures.csv` holds out for test (one half of the
pictures to train on, the other to test), squares of a single one of them (its upper half in ten blocks to
train on, its lower half to test), drawings likewise, CIFAR-10, and grey pieces of magnetic tiles (Huang et
al. 2018), at half their size. For each set and number of images: a run as `glow-tf train` without a flagfile
does it, from the prior; and levels and a Glow from nothing, with mirror images, of each of --lengths epochs
and each of --widths. With the first seed all of these are run, with others those that had the fewest bits on
the images held out. All hold the same number of training images out, and end with their best epoch. Errors
are over pictures, as squares of one picture are no independent images. Runs whose row is in the CSV are not
repeated. --keep=FOLDER keeps the models, for `lab.benchmarks.unlike`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping

import numpy as np
from absl import flags
from PIL import Image

from glow_tf import DataConfig, data
from glow_tf.commands import cli
from glow_tf.config import PRIORS
from glow_tf.store import load
from glow_tf.training import tuned
from glow_tf.use import evaluate
from glow_tf.use.evaluation import mean_and_error
from glow_tf.use.images import fitted
from lab.benchmarks.rows import added_to, measured, read
from lab.prior_pictures import held_out, opened

SIDE, TEST = 32, 500
BLOCKS = (5, 2)  # of the half of a texture to train on: a tenth, held out, does not overlap the others
LONGER = 640  # of a photograph whose squares are cut
STARTS = {
    "prior": (),
    "levels": ("--from_scratch",),
    "glow": ("--from_scratch", "--architecture=glow"),
}
KEY = ("set", "images", "seed", "start", "length", "width")
COLUMNS = (*KEY, "validation_bpd", "test_bpd", "test_bpd_se", "pictures", "untouched_bpd")
COLUMNS += ("best_epoch", "epochs", "training_seconds", "cpu_seconds")


@dataclasses.dataclass(frozen=True)
class Images:
    """A set: of `train_pictures` and `test_pictures` pictures in turn."""

    train: np.ndarray
    test: np.ndarray
    train_pictures: int
    test_pictures: int

    def mean_and_error(self, bits: np.ndarray) -> tuple[float, str]:
        """Returns the mean of the test images' bits, and its error over pictures; empty of one picture."""
        pictures = np.arange(len(bits)) % self.test_pictures
        means = [bits[pictures == k].mean() for k in range(self.test_pictures)]
        _, error = mean_and_error(np.array(means))
        return float(bits.mean()), f"{error:.6f}" if np.isfinite(error) else ""


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("pictures", "", "Folder of the unpacked packages; see lab/prior_pictures.py.", **own)
    flags.DEFINE_string("tiles", "", "Folder of magnetic tiles; empty: without them.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir, for CIFAR-10; empty: without it.", **own)
    flags.DEFINE_list("images", ["160"], "Numbers of training images.", **own)
    flags.DEFINE_list("seeds", ["0"], "Seeds.", **own)
    flags.DEFINE_list("sets", [], "Names of sets; empty: all.", **own)
    flags.DEFINE_list("starts", list(STARTS), "What runs start from.", **own)
    flags.DEFINE_list("lengths", ["15", "25", "50"], "Epochs of runs from nothing.", **own)
    flags.DEFINE_list("widths", ["32", "96"], "Widths of runs from nothing.", **own)
    flags.DEFINE_string("output", "prior.csv", "The CSV, to add to.", **own)
    flags.DEFINE_string("keep", "", "Folder for the models, such as photographs_20_0_prior.keras.", **own)


def main(values: flags.FlagValues) -> None:
    """Makes the runs one after another, and prints a line for each."""
    sets = {name: own for name, own in _sets(values).items() if not values.sets or name in values.sets}
    untouched = {name: _untouched(own.test) for name, own in sets.items()}
    with tempfile.TemporaryDirectory() as folder, added_to(values.output, COLUMNS) as add:
        cells = itertools.product(values.images, values.seeds, sets.items(), values.starts)
        for count, seed, (name, own), start in cells:
            # Picture by picture, so that those held out are the last pictures'.
            order = np.argsort(np.arange(int(count)) % own.train_pictures, kind="stable")
            for length, width in _variants(values, name, count, seed, start):
                key = dict(zip(KEY, (name, count, seed, start, length, width), strict=True))
                if tuple(key.values()) in measured(values.output, KEY):
                    continue
                kept = values.keep and f"{values.keep}/{'_'.join(filter(None, key.values()))}.keras"
                row = key | _run(pathlib.Path(folder), own.train[order], own, key, kept)
                add(row | {"untouched_bpd": untouched[name]})
                print(*row.values(), flush=True)


def _variants(
    values: flags.FlagValues, name: str, count: str, seed: str, start: str
) -> list[tuple[str, str]]:
    """Returns lengths and widths of the runs of a cell; with the first seed all, then the best of these."""
    if start == "prior":
        return [("", "")]
    if seed == values.seeds[0]:
        return list(itertools.product(values.lengths, values.widths))
    rows = [row for row in read(values.output) if row["seed"] == values.seeds[0]]
    best = best_of(row for row in rows if (row["set"], row["images"], row["start"]) == (name, count, start))
    return [(best["length"], best["width"])]


def best_of(rows: Iterable[Mapping[str, str]]) -> Mapping[str, str]:
    """Returns the row of the fewest bits on the images held out."""
    return min(rows, key=lambda row: float(row["validation_bpd"]))


def _run(
    folder: pathlib.Path, train: np.ndarray, own: Images, key: Mapping[str, str], kept: str
) -> dict[str, object]:
    """Trains in a process of its own, and returns the cells of a row."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        # The benchmark itself tests, at the end: each of the run's epochs would test all images.
        for part, images in (("train", train), ("test", own.test[:8])):
            (pathlib.Path(place) / "images" / part).mkdir(parents=True)
            for k, image in enumerate(images):
                Image.fromarray(image.squeeze()).save(pathlib.Path(place) / "images" / part / f"{k:05d}.png")
        workdir = pathlib.Path(place) / "run"
        held_out = f"--validation_examples={tuned.held_out(len(train))}"
        command = [sys.executable, "-m", "glow_tf.commands", "train", f"--dataset=folder:{place}/images"]
        command += [
            f"--workdir={workdir}",
            f"--seed={key['seed']}",
            "--noexport",
            "--notensorboard",
            held_out,
        ]
        command += ["--sample_every=0", "--streams=1", *STARTS[key["start"]]]
        if key["length"]:
            command += [f"--part_epochs={key['length']}", f"--width={key['width']}", "--augment=flip"]
        before = _cpu_seconds()
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        taken = round(_cpu_seconds() - before, 1)
        if ended:  # it diverged, and said so
            return {"validation_bpd": "inf", "cpu_seconds": taken}
        summary = json.loads((workdir / "summary.json").read_text())
        validation = min(float(row["validation_bpd"]) for row in read(workdir / "history.csv"))
        if "untouched" in summary:
            validation = min(validation, summary["untouched"]["validation_bpd"])
        model = load(str(workdir))
        bits, error = own.mean_and_error(evaluate(model, own.test).per_image)
        if kept:
            pathlib.Path(kept).parent.mkdir(parents=True, exist_ok=True)
            model.save(kept)
    cells = {"validation_bpd": f"{validation:.6f}", "test_bpd": f"{bits:.6f}", "test_bpd_se": error}
    cells |= {"pictures": own.test_pictures, "best_epoch": summary["best_epoch"], "epochs": summary["epochs"]}
    return cells | {"training_seconds": round(summary["total_seconds"], 1), "cpu_seconds": taken}


def _untouched(test: np.ndarray) -> str:
    """Returns what a set's prior needs for its test images, as it comes."""
    prior = fitted(load(PRIORS[test.shape[-1]]), test.shape[1:3])
    return f"{evaluate(prior, test).per_image.mean():.6f}"


def _cpu_seconds() -> float:
    """Returns what the processes that this one started, and that have ended, took of all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sets(values: flags.FlagValues) -> dict[str, Images]:
    """Returns each set's images, uint8 [N, 32, 32, 1 or 3]."""
    most = max(map(int, values.images))
    kinds: dict[str, list[np.ndarray]] = {}
    for kind, pictures in held_out(pathlib.Path(values.pictures)).items():
        kinds[kind] = []
        for image in itertools.starmap(opened, pictures):
            image.thumbnail((LONGER, LONGER), Image.Resampling.LANCZOS)
            kinds[kind].append(np.asarray(image))
    sets = {f"{kind}s": _set(own[::2], own[1::2], most) for kind, own in kinds.items()}
    single = max(kinds["photograph"], key=lambda image: np.abs(np.diff(image.astype(int), axis=0)).mean())
    half, (across, down) = len(single) // 2, BLOCKS
    blocks = [
        own for row in np.array_split(single[:half], down) for own in np.array_split(row, across, axis=1)
    ]
    sets["one texture"] = _set(blocks, [single[half:]], most)
    if values.data_dir:
        cifar = data.load(DataConfig("cifar10", values.data_dir, train_examples=most, test_examples=TEST))
        sets["cifar10"] = Images(cifar.train, cifar.test, 1, len(cifar.test))
    if values.tiles:
        paths = sorted(pathlib.Path(values.tiles).glob("free/*.jpg"))
        tiles = [np.asarray(Image.open(path).convert("L").reduce(2))[..., np.newaxis] for path in paths]
        middle = len(tiles) // 2
        sets["tiles"] = _set(tiles[:middle], tiles[middle:], most)
    return sets


def _set(train: list[np.ndarray], test: list[np.ndarray], most: int) -> Images:
    train, test = ([image for image in own if min(image.shape[:2]) >= SIDE] for own in (train, test))
    return Images(_squares(train, most), _squares(test, TEST), len(train), len(test))


def _squares(images: list[np.ndarray], count: int) -> np.ndarray:
    """Returns squares in turn of each image; the first ones are the same, however many there are."""
    rng = np.random.default_rng(0)
    squares = []
    for k in range(count):
        image = images[k % len(images)]
        top, left = (rng.integers(length - SIDE + 1) for length in image.shape[:2])
        squares.append(image[top : top + SIDE, left : left + SIDE])
    return np.stack(squares)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
