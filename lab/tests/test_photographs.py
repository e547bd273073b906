"""The data set of squares of photographs."""

import numpy as np
from absl import flags
from PIL import Image

from lab import photographs


def values_of(**given):
    values = flags.FlagValues()
    photographs.define(values)
    values.mark_as_parsed()
    for name, value in given.items():
        setattr(values, name, value)
    return values


def test_four_folds_test_every_picture_once_wherever_the_pictures_lie(tmp_path):
    def folds(name, parent_of):
        for k in range(10):
            folder = tmp_path / name / parent_of(k)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40, 3), 20 * k, np.uint8)).save(folder / f"{k}.jpg", quality=100)
        found = []
        for fold in range(4):
            output = tmp_path / f"{name}_{fold}"
            photographs.main(
                values_of(pictures=str(tmp_path / name), output=str(output), fold=fold, train=10, test=3)
            )
            train, test = (
                {round(np.asarray(Image.open(path)).mean() / 20) for path in (output / split).iterdir()}
                for split in ("train", "test")
            )
            assert train | test == set(range(10))
            assert not train & test
            found.append(test)
        return found

    found = folds("together", lambda k: "")
    assert sum(map(len, found)) == 10
    assert folds("apart", lambda k: f"{k % 3}/{9 - k}") == found
