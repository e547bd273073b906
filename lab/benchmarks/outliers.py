"""Does `NoveltyDetector` tell images of another kind, and damaged ones, from a few good images?

    python -m lab.benchmarks.outliers --model=cifar10_small --pictures=moss.jpg,forest.jpg,grass.jpg --good=20

Every picture is a kind: it is shrunk to 768 pixels of its shorter side and cut into pieces of the model's
size, or of --side pixels. A detector is fitted on --good of them, and scores others: 60 that must not be
flagged, the same with a black square of 4 % of the area, with a bright scratch, blurred (1 pixel), with noise
(6 levels), and 40 pieces of each other picture. For each set: the area under the ROC curve (0.5 is chance) of
the raw bits, of the log-likelihood ratio alone, and of the detector, and the share that it flags at 5 %.
"""

import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFilter
from sklearn.metrics import roc_auc_score

from glow_tf.commands import cli
from glow_tf.use import NoveltyDetector, open_model
from lab.benchmarks.rows import added_to

SHORTER, USUAL, OTHERS = 768, 60, 40  # pixels; pieces
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
    return {"square": square, "scratch": np.stack(scratched), "blur": np.stack(blurred), "noise": noise}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "cifar10_small", "The prior.", flag_values=values)
    flags.DEFINE_list("pictures", "", "Files, each of another kind.", flag_values=values)
    flags.DEFINE_integer("good", 20, "Good images.", flag_values=values)
    flags.DEFINE_integer("side", 0, "Of a piece, in pixels; 0: the prior's own.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the pieces, the damages and the folds.", flag_values=values)
    flags.DEFINE_string("csv", "outliers.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures every set of every kind, prints the areas and writes them as CSV."""
    model, seed = open_model(given.model), given.seed
    side = given.side or model.image_shape[0]
    with added_to(given.csv, COLUMNS) as add:
        for path in given.pictures:
            own = pieces(path, given.good + USUAL, side, seed)
            detector = NoveltyDetector(model, seed=seed).fit(own[: given.good])
            usual = own[given.good :]
            sets = damaged(usual, seed) | {
                pathlib.Path(other).stem: pieces(other, OTHERS, side, seed)
                for other in given.pictures
                if other != path
            }
            scores = _scores(detector, usual)
            flagged = detector.predict(usual).mean()
            kind = pathlib.Path(path).stem
            add([given.model, kind, given.good, seed, "good", "", "", "", f"{flagged:.3f}"])
            print(f"{kind}: of good images {flagged:.3f} are flagged", flush=True)
            for name, images in sets.items():
                found = _scores(detector, images)
                truth = np.repeat([0, 1], [len(usual), len(images)])
                both = zip(scores, found, strict=True)
                areas = [f"{roc_auc_score(truth, np.concatenate(pair)):.3f}" for pair in both]
                flagged = f"{detector.predict(images).mean():.3f}"
                add([given.model, kind, given.good, seed, name, *areas, flagged])
                print(f"  {name:<28} AUROC {', '.join(areas)}, flagged {flagged}", flush=True)


def _scores(detector: NoveltyDetector, images: np.ndarray) -> list[np.ndarray]:
    """Returns the bits, minus the log-likelihood ratio, and the detector's score, [N] each."""
    prior, tuned = (
        np.asarray(glow.score(images)["bits_per_dim"]) for glow in (detector.prior_, detector.tuned_)
    )
    return [prior, tuned - prior, detector.decision_function(images)]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
