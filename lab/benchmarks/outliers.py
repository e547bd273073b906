"""How well does each score of `glow_tf.use.Scorer` tell images of another kind from good ones?

    python -m lab.benchmarks.outliers --model=fashion_mnist --dataset=fashion_mnist --data_dir=PATH

The test images are cut in two: with one half the scorers are fitted, the other half is what must not be
flagged. The sets of another kind are spoiled copies of the second half, the second half turned, upside down
and mirrored, images of one colour, black, grey and white frames, scikit-learn's digits, rendered letters and
digits, and MNIST's if --mnist names its file, brought to the model's shape. For each score and set: the area
under the ROC curve (0.5 is chance, below it the set looks *more* usual than the data), the shares of images
that are flagged at nominal rates of false alarms of 1 % and of 5 %, and the median p-value. `auto` is what
the first half alone chooses, by spoiled copies of its own; the last lines are the areas that it chose by.
"""

import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score

from glow_tf.commands import cli
from glow_tf.use import Scorer, features, open_model, read_images, spoiled_copies
from glow_tf.use.score.rules import RULES
from lab.benchmarks.pictures import idx_images
from lab.benchmarks.rows import added_to

FALSE_ALARMS = (0.01, 0.05)
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZabdefghkmnpqrstwxyz23456789"

COLUMNS = ("model", "set", "images", "score", "auroc", "flagged", "flagged_5", "median_p")


def other_sets(images: np.ndarray, seed: int, mnist: str) -> dict[str, np.ndarray]:
    """Returns sets of another kind, each of the shape of images uint8 [N, H, W, C] but for N.

    Args:
      images: good ones.
      seed: of the noise, the patches and the letters.
      mnist: MNIST's file t10k-images-idx3-ubyte, compressed or not; empty: no such set.
    """
    rng = np.random.default_rng(seed)
    count, height, width, channels = images.shape
    digits = read_images((height, width, channels), "digits", split="all").images
    sets = {
        "one colour at random": np.broadcast_to(
            rng.integers(0, 256, (count, 1, 1, channels), np.uint8), images.shape
        ),
        **{
            f"{name} frame": np.full((1, *images.shape[1:]), level, np.uint8)
            for name, level in (("black", 0), ("grey", 128), ("white", 255))
        },
        **spoiled_copies(images, seed),
        "upside down": np.rot90(images, 2, axes=(1, 2)),
        "mirrored": images[:, :, ::-1],
        "digits (scikit-learn), half of the contrast": digits,  # as the data set has them: levels 0 to 128
        "digits (scikit-learn), full contrast": np.minimum(2 * digits.astype(int), 255).astype(np.uint8),
        "rendered letters": np.stack([_sign(images.shape[1:], rng, LETTERS) for _ in range(count)]),
        "rendered digits": np.stack([_sign(images.shape[1:], rng, "0123456789") for _ in range(count)]),
    }
    if height == width:
        sets["turned by 90°"] = np.rot90(images, axes=(1, 2))
    if mnist:
        found = idx_images(pathlib.Path(mnist), count)
        resized = [
            Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC) for image in found
        ]
        sets["MNIST digits"] = np.repeat(np.stack(resized)[..., np.newaxis], channels, axis=-1)
    return sets


def _sign(shape: tuple[int, ...], rng: np.random.Generator, signs: str) -> np.ndarray:
    height, width, channels = shape
    colour = tuple(int(c) for c in rng.integers(128, 256, channels))
    picture = Image.new("RGB" if channels == 3 else "L", (width, height))
    font = ImageFont.load_default(size=int(0.8 * height))
    place = tuple(rng.uniform(0, 0.3, 2) * height)
    fill = colour if channels == 3 else colour[0]
    ImageDraw.Draw(picture).text(place, rng.choice(list(signs)), fill=fill, font=font)
    return np.asarray(picture).reshape(shape)


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "As in `glow-tf score --help`.", flag_values=values)
    flags.DEFINE_string("dataset", "", "Of the model's kind; its test images are used.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_string("mnist", "", "MNIST's t10k-images-idx3-ubyte; empty: none.", flag_values=values)
    flags.DEFINE_integer("examples", 2000, "Test images.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the halves and of the sets.", flag_values=values)
    flags.DEFINE_string("csv", "outliers.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures every score on every set, prints the table and writes it as CSV."""
    model = open_model(given.model)
    images = read_images(model.image_shape, given.dataset, given.data_dir, count=given.examples).images
    images = np.random.default_rng(given.seed).permutation(images)
    fitted, held_out = images[: len(images) // 2], images[len(images) // 2 :]
    good = features(model, fitted)
    usual = features(model, held_out)
    sets = {
        name: features(model, other) for name, other in other_sets(held_out, given.seed, given.mnist).items()
    }
    with added_to(given.csv, COLUMNS) as add:
        chosen = Scorer(model).fit(fitted, given.seed)
        scores = [score for score in RULES if score != "levels" or good.levels is not None]
        scorers = {score: Scorer(model, score).fit_features(good, given.seed) for score in scores}
        for score, scorer in {"auto": chosen, **scorers}.items():
            for name, found in {"held-out test images": usual, **sets}.items():
                truth = np.repeat([0, 1], [len(usual), len(found)])
                scores = np.concatenate([scorer.unusual(usual), scorer.unusual(found)])
                area = roc_auc_score(truth, np.nan_to_num(scores, posinf=np.finfo(np.float64).max))
                p_values = scorer.p_value_of(found)
                flagged = [f"{np.mean(p_values <= rate):.4f}" for rate in FALSE_ALARMS]
                median = f"{np.median(p_values):.4f}"
                add([given.model, name, len(found), score, f"{area:.4f}", *flagged, median])
                print(f"{score:<11} {name:<43} AUROC {area:.4f}, flagged {', '.join(flagged)}", flush=True)
        for score, areas in chosen.areas.items():
            for kind, area in areas.items():
                add([given.model, f"first half, {kind}", "", score, f"{area:.4f}", "", "", ""])
            print(f"{score:<11} of the first half: {', '.join(f'{k} {a:.3f}' for k, a in areas.items())}")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
