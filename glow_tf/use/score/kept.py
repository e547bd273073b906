"""A fitted detector as one file, and as a SavedModel."""

from __future__ import annotations

import io
import json
import pathlib
import tempfile
import zipfile
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.pieces import number_of_streams
from glow_tf.core.durable_files import check_place, replaced_folder, write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.model.conditions import of_names
from glow_tf.run.files.saved import load as load_glow
from glow_tf.run.files.workdir import SAVED_MODEL
from glow_tf.use.score.rule import Rule

FORMAT = 2  # 1 was the JSON of releases before 0.6
ABOUT, NUMBERS, MODELS = "detector.json", "numbers.npz", ("prior.keras", "tuned.keras")
GOOD, WORST = "good images", "worst places"  # of the numbers; the others are the rule's
LARGEST = 2**34  # bytes of a member


_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, tf.errors.OpError)
_DAMAGED += (KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)


def save(detector: Any, path: pathlib.Path) -> None:
    """Writes a detector: a zip file of its settings and numbers, and of both models as `.keras` files."""
    settings = {name: value for name, value in detector.get_params().items() if name != "prior"}
    numbers, file = io.BytesIO(), io.BytesIO()
    np.savez(numbers, **{GOOD: detector.decision_scores_, WORST: detector._worst}, **detector._rule.arrays)
    with zipfile.ZipFile(file, "w") as content, tempfile.TemporaryDirectory() as folder:
        content.writestr(ABOUT, json.dumps({"format": FORMAT, **settings}))
        content.writestr(NUMBERS, numbers.getvalue())
        for name, glow in zip(MODELS, (detector.prior_, detector.tuned_), strict=True):
            glow.save(pathlib.Path(folder, name))
            content.write(pathlib.Path(folder, name), name)
    write_atomically(path, file.getvalue())


def load(kind: type, path: pathlib.Path) -> Any:
    """Reads what `save` wrote; ConfigError if it is damaged, or of a release before 0.6."""
    try:
        with zipfile.ZipFile(path) as content, tempfile.TemporaryDirectory() as folder:
            if largest := [own.filename for own in content.infolist() if own.file_size > LARGEST]:
                raise ValueError(f"{largest[0]} is too large")
            about = json.loads(content.read(ABOUT))
            if about.pop("format") != FORMAT:
                raise ValueError("another format")
            with np.load(io.BytesIO(content.read(NUMBERS)), allow_pickle=False) as found:
                numbers = {name: found[name] for name in found.files}
            models = [load_glow(content.extract(name, folder)) for name in MODELS]
        detector = kind(models[0], **about)
        detector.prior_, detector.tuned_ = models
        detector.decision_scores_, detector._worst = (
            np.asarray(numbers.pop(n), float) for n in (GOOD, WORST)
        )
        detector._rule, detector._function = Rule(numbers), None
        _check_usable(detector)
    except _DAMAGED as error:
        raise ConfigError(
            "calibration must be a file from `glow-tf score fit`. Releases before 0.6 wrote others: run it "
            f"again. Received: {str(path)!r}, {error}"
        ) from None
    return detector


def _check_usable(detector: Any) -> None:
    """Scores a black image: numbers of another rule raise what there is to raise."""
    glow = detector.prior_
    detector._check_contamination(len(detector.decision_scores_))
    given = {name: np.zeros((1, *shape), np.float32) for name, shape in glow.condition_shapes.items()}
    detector.score_and_heat(np.zeros((1, *glow.image_shape), glow.data_dtype), of_names(given))


class _Exported(tf.Module):
    """What the SavedModel holds: one function, and the weights of both models."""

    def __init__(self, detector: Any):
        super().__init__()
        self.weights = [w.value for glow in (detector.prior_, detector.tuned_) for w in glow.weights]
        good = np.sort(detector.decision_scores_).astype(np.float32)

        def serve(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            kind, places = detector._rule(detector._of_batch(*inputs), detector.prior_.image_shape[:2])
            score = tf.maximum(kind, tf.reduce_max(places, axis=[1, 2]))
            at_least = tf.reduce_sum(tf.cast(good >= score[:, tf.newaxis] - 1e-4, tf.float32), axis=1)
            return {"score": score, "p_value": (1 + at_least) / (1 + len(good)), "map": places}

        signature = detector.prior_.endpoints()["encode"][1]
        self.serve = tf.function(serve, input_signature=signature, autograph=False)


def export(detector: Any, folder: pathlib.Path) -> None:
    """Writes a SavedModel; OSError if the folder cannot be written, or holds something else."""
    check_place(folder, "SavedModel", SAVED_MODEL)
    with number_of_streams(1), replaced_folder(folder, "SavedModel", SAVED_MODEL) as temporary:
        module = _Exported(detector)
        tf.saved_model.save(module, str(temporary), signatures={"serving_default": module.serve})
