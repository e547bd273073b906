"""Flags images that are unlike good ones, at a rate of false alarms that you choose.

    glow-tf score fit --model=fashion_mnist --dataset=fashion_mnist --data_dir=PATH
    glow-tf score check --model=fashion_mnist --dataset=folder:PATH --false_alarms=0.01

`fit` takes good images that the model was not trained on, and writes --calibration, a JSON file. `check`
writes a folder, --output: scores.csv with a p-value, a flag and a reason for each image, and worst.html, a
page that shows the most unusual ones. In scores.csv a name that a spreadsheet would take as a formula, such
as `=a.png`, has an apostrophe before it. An image is flagged if its p-value is at most --false_alarms: about
this share of images like the good ones is flagged as well, on average. `glow_tf.use.Scorer` is the same from
Python.
"""

import base64
import contextlib
import csv
import html
import io
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.config import INPUT, TARGET, file_of, folder_of
from glow_tf.core.errors import ConfigError, printable
from glow_tf.core.text_files import read_json

ACTIONS = ("fit", "check")
TRAINED_ON = "WARNING: the model was trained on some of these images. It codes them better than new ones, so"
_STYLE = """
body { font-family: sans-serif; margin: 1.5rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; overflow-wrap: anywhere; font-size: 0.8rem; line-height: 1.3; }
img { width: 100%; max-width: 9rem; image-rendering: pixelated; }
"""


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="scores")
    model_flags.define_seed(values)
    model_flags.define_images(values)
    about = (
        "For fit: density (of likelihood, latents and size of a lossless file), levels (these and the bits "
        "of each level), nll, latent, typicality or complexity; auto: of all but nll and latent, the one "
        "that is best at telling spoiled copies of the good images."
    )
    parsing.define(
        values,
        calibration=("calibration.json", "What fit found."),
        score=("auto", about),
        false_alarms=(0.01, "For check: the share of good images that may be flagged."),
        worst=(100, "For check: images on the page."),
        white=model_flags.WHITE,
    )


def main(values: flags.FlagValues, action: str) -> None:
    if not 0 < values.false_alarms < 1:
        raise ConfigError(
            f"false_alarms must be between 0 and 1. Received: false_alarms={values.false_alarms:g}"
        )
    model_flags.count_of(values, "worst")
    path = pathlib.Path(values.calibration)
    if action == "check":
        _check_calibration(path, values.false_alarms)
    white = model_flags.white_of(values)
    if action == "fit":
        _fit(values, path)
    else:
        _check(values, path, white)


def _fit(values: flags.FlagValues, path: pathlib.Path) -> None:
    model_flags.check_file(values, "calibration", path)
    from glow_tf.use import Scorer

    model = model_flags.model_of(values)
    scorer = Scorer(model, values.score)
    used = model_flags.images_of(values, model)
    if trained_on(values, used.images):
        print(
            f"{TRAINED_ON} too many new ones will be flagged. --split=test has those that it was not trained "
            "on."
        )
    smallest = 1 / (1 + (len(used.images) + 1) // 2)  # half of them are compared with, the larger half
    if smallest > values.false_alarms:
        needed = 2 * math.ceil(1 / values.false_alarms - 1) - 1
        print(
            f"WARNING: with {len(used.images)} good images no p-value is below {_rounded_up(smallest)}, and "
            f"check refuses a smaller --false_alarms. For --false_alarms={values.false_alarms:g} fit takes "
            f"{needed} images or more.",
            flush=True,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    scorer.fit(used.images, values.seed, used.condition).save(path)
    chosen = ""
    if scorer.areas:
        kind, area = min(scorer.areas[scorer.score].items(), key=lambda item: item[1])
        chosen = f". Its smallest area under the ROC curve, of spoiled copies of them, is {area:.3f} ({kind})"
    print(
        f"{path}: {len(used.images)} good images, score {scorer.score}{chosen}. The smallest p-value is "
        f"{_rounded_up(scorer.smallest)}."
    )


def _rounded_up(p_value: float) -> str:
    """Returns two digits that are no smaller, so that --false_alarms may be what is said."""
    digits = 1 - math.floor(math.log10(p_value))
    return f"{math.ceil(p_value * 10**digits) / 10**digits:g}"


def trained_on(values: flags.FlagValues, images: np.ndarray) -> bool:
    """Returns whether images that the model was trained on are known to be among these.

    They are known by the place from which they come, or by the checksum of all of them.
    """
    from glow_tf.data.image_files import has_test_images
    from glow_tf.run.files.flags_file import read_settings
    from glow_tf.run.files.same_data import has_training_images
    from glow_tf.use.models import about

    trained = read_settings(pathlib.Path(values.model)).get("dataset")
    trained = trained or str(about(values.model).get("data", "")).split(",")[0]
    own, theirs = (folder_of(dataset) or file_of(dataset) for dataset in (values.dataset, trained))
    same = own.resolve() == theirs.resolve() if own and theirs else values.dataset == trained
    below = own / TARGET if own and values.condition == INPUT else own
    all_of_it = below is not None and not has_test_images(below)  # a file has none
    here = same and (values.split in ("train", "all") or (not values.split and all_of_it))
    return here or has_training_images(pathlib.Path(values.model, "checkpoints"), images)


def _check(values: flags.FlagValues, path: pathlib.Path, white: int) -> None:
    folder = model_flags.output_folder(values)
    from glow_tf.use import Scorer

    model = model_flags.model_of(values)
    scorer = Scorer.load(path, model)
    used = model_flags.images_of(values, model)
    if trained_on(values, used.images):
        print(f"{TRAINED_ON} fewer of them are flagged than of new ones like them.")
    found = scorer.features(used.images, used.condition)
    p_values, reasons = scorer.p_value_of(found), scorer.reasons(found)
    flagged = p_values <= values.false_alarms
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "p_value", "flagged", "bits_per_dim", "latent_bits", "codec_bits", "reason"])
    for k, name in enumerate(used.names):
        numbers = [f"{feature[k]:.4f}" for feature in (found.nll, found.latent, found.codec)]
        writer.writerow(
            [_as_text(name), f"{p_values[k]:.6g}", "yes" if flagged[k] else "no", *numbers, reasons[k]]
        )
    model_flags.write(folder / "scores.csv", table.getvalue().encode(errors="replace"))
    order = (-scorer.unusual(found)).argsort(kind="stable")[: values.worst]  # p-values tie
    notes = [f"p = {p_values[k]:.3g}{', flagged' if flagged[k] else ''}" for k in order]
    captions = [(used.names[k], note, reasons[k]) for k, note in zip(order, notes, strict=True)]
    page = sheet(used.images[order], captions, f"The most unusual of {len(used.images)} images", white)
    model_flags.write(folder / "worst.html", page.encode(errors="replace"))
    expected = values.false_alarms * len(used.images)
    print(
        f"{flagged.sum()} of {len(used.images)} images are flagged; of images like the good ones, about "
        f"{expected:.{1 if expected < 10 else 0}f} would be. {folder / 'scores.csv'}, {folder / 'worst.html'}"
    )


def _check_calibration(path: pathlib.Path, false_alarms: float) -> None:
    """Raises ConfigError, before TensorFlow is loaded, for no calibration, or one without such a p-value."""
    if not path.is_file():
        raise ConfigError(
            f"calibration must be a file from `glow-tf score fit`. Received: calibration={str(path)!r}"
        )
    smallest = 0.0
    with contextlib.suppress(ValueError, KeyError, TypeError):  # `Scorer.load` says what is wrong with it
        smallest = 1 / (1 + len(read_json(path)["calibration"]["nll"]))
    if smallest > false_alarms:
        raise ConfigError(
            f"false_alarms must be {_rounded_up(smallest)} or more with as many good images as the "
            f"calibration has. Received: false_alarms={false_alarms:g}"
        )


def _as_text(name: str) -> str:
    """Returns a file's name as a cell of a table, which no spreadsheet takes as a formula."""
    return printable("'" * name.startswith(("=", "+", "-", "@", "\t", "\r")) + name)


def sheet(images: np.ndarray, captions: Sequence[Sequence[str]], title: str, white: int) -> str:
    """Returns an HTML file, which needs no other, of images uint8 [N, H, W, C]: a name and texts for each."""
    from glow_tf.run import pictures

    figures = []
    shown = pictures.stretched(images, white) if white < 255 else images
    for image, texts in zip(shown, captions, strict=True):
        data = base64.b64encode(pictures.png(image)).decode()
        name, *others = map(html.escape, texts)
        caption = "<br>".join([f"<strong>{name}</strong>", *filter(None, others)])
        figures.append(
            f'<figure><img alt="" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><main>\n" + "\n".join(figures) + "\n</main></body></html>\n"
    )
