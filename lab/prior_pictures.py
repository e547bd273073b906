"""Makes the squares that the prior presets are trained on: pieces of many pictures at many scales.

    packages="breeze-wallpaper budgie-backgrounds gnome-backgrounds lomiri-wallpapers lomiri-wallpapers-16.04
              lomiri-wallpapers-20.04 mate-backgrounds ukui-wallpapers plasma-workspace-wallpapers
              tuxpaint-data gcompris-qt-data"                                                # of Debian 13
    apt-get download $packages; mkdir pictures
    for package in *.deb; do dpkg -x "$package" "pictures/${package%%_*}"; done
    python -m lab.prior_pictures --pictures=pictures --output=runs/prior_pictures

`prior_pictures.csv` beside this file names the pictures: a photograph or a drawing, for training, validation
or test. No picture gives two of these. Pictures of GCompris lie in its archives of Qt resources. They are
small and compressed with loss, so that they are used from half their size on.
"""

from __future__ import annotations

import csv
import io
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags
from PIL import Image

from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError

LIST = pathlib.Path(__file__).with_suffix(".csv")
# A square is of a picture at one of these sizes, which have these shares: large pictures are mostly flat.
LONGER_SIDES = {2560: 1, 1280: 2, 640: 3, 320: 3, 160: 2, 80: 1}
MOST_ENLARGED = 1.05  # a picture is not used at sizes beyond its own
DRAWN = 0.15  # of the squares
# In a Qt resource a file's length, 4 bytes, stands before the file.
WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("pictures", "", "Folder of the unpacked packages.", flag_values=values)
    flags.DEFINE_string("output", "runs/prior_pictures", "Folder of the arrays.", flag_values=values)
    flags.DEFINE_integer("side", 32, "Of the squares.", 8, 256, flag_values=values)
    flags.DEFINE_integer("train", 400_000, "Training squares.", 1, flag_values=values)
    flags.DEFINE_integer("others", 2_000, "Squares for validation, and for test.", 1, flag_values=values)
    flags.DEFINE_boolean("grey", False, "Grey squares instead of coloured ones.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the places of the squares.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Writes train.npy, validation.npy and test.npy, and says of how many pictures they are."""
    found = dict(pictures_below(pathlib.Path(values.pictures)))
    with LIST.open() as file:
        listed = list(csv.DictReader(file))
    if missing := [row["picture"] for row in listed if row["picture"] not in found]:
        raise ConfigError(
            f"pictures must hold every picture of {LIST.name}. Received: pictures={values.pictures!r}, "
            f"which lacks {len(missing)}, such as {missing[0]!r}"
        )
    output = pathlib.Path(values.output)
    output.mkdir(parents=True, exist_ok=True)
    for k, (use, count) in enumerate(
        (("train", values.train), ("validation", values.others), ("test", values.others))
    ):
        rows = [row for row in listed if row["use"] == use]
        rng = np.random.default_rng([values.seed, k])
        squares = _squares(rows, found, count, values.side, values.grey, rng)
        np.save(output / f"{use}.npy", squares)
        print(f"{output / use}.npy: {count} squares of {len(rows)} pictures")


def pictures_below(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the bytes of every picture of the packages, those within resources numbered."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
        elif path.suffix == ".rcc":
            content = path.read_bytes()
            for match in WEBP.finditer(content):
                begin = match.start()
                length = int.from_bytes(content[begin - 4 : begin], "big")
                yield f"{path.relative_to(folder).as_posix()}@{begin}", content[begin : begin + length]


def held_out(folder: pathlib.Path) -> dict[str, list[tuple[str, bytes]]]:
    """Returns the pictures that are for test, a photograph's or a drawing's name and bytes, by their kind."""
    found, kinds = dict(pictures_below(folder)), {"photograph": [], "drawing": []}
    with LIST.open() as file:
        for row in csv.DictReader(file):
            if row["use"] == "test":
                kinds[row["kind"]].append((row["picture"], found[row["picture"]]))
    return kinds


def opened(name: str, content: bytes) -> Image.Image:
    """Returns a picture on white where it is transparent, one compressed with loss at half its size."""
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    return image.reduce(2) if ".rcc@" in name else image


def _squares(
    rows: list[dict[str, str]],
    found: dict[str, bytes],
    count: int,
    side: int,
    grey: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns uint8 [count, side, side, 1 or 3]: each kind has its share, each scale and picture the same."""
    squares = np.empty((count, side, side, 1 if grey else 3), np.uint8)
    places = rng.permutation(count)
    sized = _by_kind_and_scale(rows, found, side, grey)
    begin = 0
    for kind, share in (("photograph", 1 - DRAWN), ("drawing", 1.0)):
        end = begin + round((count - begin) * share)
        images = [
            group
            for (of_kind, longer), group in sized.items()
            if of_kind == kind
            for _ in range(LONGER_SIDES[longer])
        ]
        for k, place in enumerate(places[begin:end]):
            group = images[k % len(images)]
            image = group[rng.integers(len(group))]
            top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
            square = image[top : top + side, left : left + side]
            squares[place] = square[:, ::-1] if rng.integers(2) else square
        begin = end
    return squares


def _by_kind_and_scale(
    rows: list[dict[str, str]], found: dict[str, bytes], side: int, grey: bool
) -> dict[tuple[str, int], list[np.ndarray]]:
    """Returns the pictures of each kind at each scale that they are large enough for."""
    sized: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in rows:
        image = opened(row["picture"], found[row["picture"]])
        for longer in LONGER_SIDES:
            if longer <= MOST_ENLARGED * max(image.size):
                image.thumbnail((longer, longer), Image.Resampling.LANCZOS)
                if min(image.size) >= side:
                    pixels = np.asarray(image.convert("L"))[..., np.newaxis] if grey else np.asarray(image)
                    sized.setdefault((row["kind"], longer), []).append(pixels)
    return sized


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
