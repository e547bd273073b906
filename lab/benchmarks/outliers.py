r"""Does `NoveltyDetector` tell images of another kind, and damaged ones, from a few good images?

    T=PICTURES/tuxpaint-data/usr/share/tuxpaint/templates
    L=PICTURES/lomiri-wallpapers-16.04/usr/share/backgrounds
    M=PICTURES/mate-backgrounds/usr/share/backgrounds/mate/nature
    kinds=$L/life_by_Aitzol_Berasategi.jpg,$L/analogpattern_by_Peter_Nerlich.jpg,$M/RainDrops.jpg
    python -m lab.benchmarks.outliers --model=cifar10_small,photographs --good=20,60,150 --seeds=0,1,2 \
        --pictures=$kinds,$T/mudstone.jpg --others=$T/cliff.jpg,$T/sun_behind_leaves.jpg,$M/FreshFlower.jpg

Every picture is a kind: it is shrunk to 768 pixels of its shorter side and cut into pieces of --side pixels.
A detector is fitted on --good of them, and scores others: 60 that must not be flagged, the same with a black
square of 4 % of the area, with a bright scratch, blurred (1 pixel), with noise (6 levels), and 40 pieces of
each other picture. For each set: the area under the ROC curve (0.5 is chance) of the raw bits, of the
log-likelihood ratio alone, and of the detector, and the share that it flags at 5 %.

A cell, one picture with one prior, number and seed, is measured unless the CSV has its rows: a call that was
stopped goes on. PICTURES is the folder of lab/prior_pictures.py, whose CSV says which pictures `photographs`
has not seen: those above are among them.
"""

import itertools
import pathlib
import sys
import time

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFilter
from sklearn.metrics import roc_auc_score

from glow_tf.commands import cli
from glow_tf.use import NoveltyDetector
from lab.benchmarks.rows import added_to, measured

SHORTER, USUAL, OTHERS = 768, 60, 40  # pixels; pieces
DAMAGES = ("square", "scratch", "blur", "noise")
COLUMNS = ("model", "kind", "good", "seed", "set", "auroc_bits", "auroc_ratio", "auroc", "flagged_5")


def pieces(path: str, count: int, side: int, seed: int) -> np.ndarray:
    """Returns pieces of a picture that do not overlap, in a random order: uint8 [count, side, side, 3]."""
    picture = Image.open(path).convert("RGB")
    zoom = SHORTER / min(picture.size)
    size = tuple(round(zoom * own) for own in picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    rows, columns = (own // side for own in pixels.shape[:2])
    cut = pixels[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    order = np.random.default_rng(seed).permutation(rows * columns)[:count]
    return cut.reshape(-1, side, side, 3)[order]


def damaged(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Returns copies of images uint8 [N, H, W, 3], by the name of their damage."""
    rng, side = np.random.default_rng(seed), images.shape[1]
    square, scratched, size = images.copy(), [], round(0.2 * side)
    for image in square:
        row, column = rng.integers(0, side - size, 2)
        image[row : row + size, column : column + size] = 0
    for image in images:
        start, angle = rng.integers(0, side, 2), rng.uniform(0, np.pi)
        end = start + 0.5 * side * np.array([np.cos(angle), np.sin(angle)])
        picture = Image.fromarray(image)
        ImageDraw.Draw(picture).line([*map(float, start), *map(float, end)], fill=(230, 230, 230), width=1)
        scratched.append(np.asarray(picture))
    blurred = [np.asarray(Image.fromarray(own).filter(ImageFilter.GaussianBlur(1))) for own in images]
    noise = np.clip(images + rng.normal(0, 6, images.shape), 0, 255).round().astype(np.uint8)
    return dict(zip(DAMAGES, (square, np.stack(scratched), np.stack(blurred), noise), strict=True))


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("model", ["cifar10_small"], "The priors.", flag_values=values)
    flags.DEFINE_list("pictures", "", "Files, each of another kind.", flag_values=values)
    flags.DEFINE_list("others", "", "Files of more kinds, which nothing is fitted on.", flag_values=values)
    flags.DEFINE_list("good", ["20"], "Numbers of good images.", flag_values=values)
    flags.DEFINE_integer("side", 32, "Of a piece, in pixels.", flag_values=values)
    flags.DEFINE_list("seeds", ["0"], "Of the pieces, the damages and the folds.", flag_values=values)
    flags.DEFINE_string("csv", "outliers.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures every set of every cell, prints the areas and writes them as CSV."""
    done = measured(given.csv, COLUMNS[:5])
    goods, seeds = map(int, given.good), map(int, given.seeds)
    with added_to(given.csv, COLUMNS) as add:
        for *cell, path in itertools.product(goods, seeds, given.model, given.pictures):
            good, seed, model = cell
            others = [own for own in (*given.pictures, *given.others) if own != path]
            kind = pathlib.Path(path).stem
            names = {"good", *DAMAGES, *(pathlib.Path(own).stem for own in others)}
            names -= {row[4] for row in done if row[:4] == (model, kind, str(good), str(seed))}
            if not names:
                continue
            start = time.process_time()
            own = pieces(path, good + USUAL, given.side, seed)
            detector = NoveltyDetector(model, seed=seed).fit(own[:good])
            fitted = time.process_time() - start
            usual = own[good:]
            sets = {"good": usual} | damaged(usual, seed)
            sets |= {pathlib.Path(own).stem: pieces(own, OTHERS, given.side, seed) for own in others}
            scores = _scores(detector, usual)
            for name in [own for own in sets if own in names]:
                areas = ["", "", ""]
                found = scores if name == "good" else _scores(detector, sets[name])
                if name != "good":
                    truth = np.repeat([0, 1], [len(usual), len(sets[name])])
                    both = zip(scores, found, strict=True)
                    areas = [f"{roc_auc_score(truth, np.concatenate(pair)):.3f}" for pair in both]
                flagged = f"{(found[-1] > detector.threshold_).mean():.3f}"
                add([model, kind, good, seed, name, *areas, flagged])
                print(f"  {name:<28} AUROC {', '.join(areas)}, flagged {flagged}", flush=True)
            seconds = f"{fitted:.0f} + {time.process_time() - start - fitted:.0f} CPU seconds"
            print(f"{kind}, {model}, {good} images, seed {seed}: {seconds}", flush=True)


def _scores(detector: NoveltyDetector, images: np.ndarray) -> list[np.ndarray]:
    """Returns the bits, minus the log-likelihood ratio, and the detector's score, [N] each."""
    prior, tuned = (
        np.asarray(flow.score(images)["bits_per_dim"]) for flow in (detector.prior_, detector.tuned_)
    )
    return [prior, tuned - prior, detector.decision_function(images)]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
