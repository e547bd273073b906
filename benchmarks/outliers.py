"""How well does each score of `glow_tf.use.Scorer` tell images of another kind from good ones?

    python benchmarks/outliers.py --model=fashion_mnist --dataset=fashion_mnist --data_dir=PATH

The test images are cut in two: with one half the scorers are fitted, the other half is what must not be
flagged. The sets of another kind are made of the second half (noise, blur, shuffled patches, one colour) or
are scikit-learn's digits and rendered letters, brought to the model's shape. For each score and set: the area
under the ROC curve (0.5 is chance, below it the set looks *more* usual than the data) and the share of images
that is flagged at a nominal rate of false alarms of 1 %.
"""

import csv
import sys

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.metrics import roc_auc_score

from glow_tf.commands import cli
from glow_tf.use import Scorer, features, open_model, read_images
from glow_tf.use.guard import RULES

FALSE_ALARMS = 0.01
PATCHES = 4  # along a side, shuffled
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZabdefghkmnpqrstwxyz23456789"


def other_sets(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Returns sets of another kind, each of the shape of images uint8 [N, H, W, C] but for the digits' N."""
    rng = np.random.default_rng(seed)
    count, height, width, channels = images.shape
    noise = rng.normal(0, 16, images.shape)
    return {
        "one colour": np.broadcast_to(rng.integers(0, 256, (count, 1, 1, channels), np.uint8), images.shape),
        "noised (16 levels)": np.clip(images + noise, 0, 255).astype(np.uint8),
        "blurred (1 pixel)": np.stack([_blurred(image) for image in images]),
        "shuffled patches": np.stack([_shuffled(image, rng) for image in images]),
        "digits (scikit-learn)": read_images((height, width, channels), "digits", split="all").images,
        "rendered letters": np.stack([_letter((height, width, channels), rng) for _ in range(count)]),
    }


def _to_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(_to_pil(image).filter(ImageFilter.GaussianBlur(1))).reshape(image.shape)


def _shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width, channels = image.shape
    h, w = height // PATCHES, width // PATCHES
    patches = image.reshape(PATCHES, h, PATCHES, w, channels).swapaxes(1, 2).reshape(-1, h, w, channels)
    shuffled = rng.permutation(patches).reshape(PATCHES, PATCHES, h, w, channels)
    return shuffled.swapaxes(1, 2).reshape(height, width, channels)


def _letter(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    height, width, channels = shape
    colour = tuple(int(c) for c in rng.integers(128, 256, channels))
    picture = Image.new("RGB" if channels == 3 else "L", (width, height))
    font = ImageFont.load_default(size=int(0.8 * height))
    place = tuple(rng.uniform(0, 0.3, 2) * height)
    fill = colour if channels == 3 else colour[0]
    ImageDraw.Draw(picture).text(place, rng.choice(list(LETTERS)), fill=fill, font=font)
    return np.asarray(picture).reshape(shape)


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "As in `glow-tf score --help`.", flag_values=values)
    flags.DEFINE_string("dataset", "", "Of the model's kind; its test images are used.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_integer("examples", 2000, "Test images.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the halves and of the sets.", flag_values=values)
    flags.DEFINE_string("csv", "outliers.csv", "To write.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures every score on every set, prints the table and writes it as CSV."""
    model = open_model(given.model)
    images = read_images(model.image_shape, given.dataset, given.data_dir, count=given.examples).images
    images = np.random.default_rng(given.seed).permutation(images)
    fitted, held_out = images[: len(images) // 2], images[len(images) // 2 :]
    good = features(model, fitted)
    usual = features(model, held_out)
    sets = {name: features(model, other) for name, other in other_sets(held_out, given.seed).items()}
    with open(given.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "set", "images", "score", "auroc", "flagged"])
        for score in RULES:
            scorer = Scorer(model, score).fit_features(good, given.seed)
            for name, found in {"held-out test images": usual, **sets}.items():
                truth = np.repeat([0, 1], [len(usual), len(found)])
                scores = np.concatenate([scorer.unusual(usual), scorer.unusual(found)])
                area = roc_auc_score(truth, np.nan_to_num(scores, posinf=np.finfo(np.float64).max))
                flagged = float(np.mean(scorer.p_value_of(found) <= FALSE_ALARMS))
                writer.writerow([given.model, name, len(found), score, f"{area:.4f}", f"{flagged:.4f}"])
                print(f"{score:<11} {name:<24} AUROC {area:.4f}, flagged {flagged:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
