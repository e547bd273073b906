"""A fitted detector as one file, and as a SavedModel."""

from __future__ import annotations

import copy
import io
import json
import pathlib
import tempfile
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.config.choices import EXPORTS
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import json_text
from glow_tf.model.conditions import of_names
from glow_tf.run.files.saved import load as load_glow
from glow_tf.use import exports
from glow_tf.use.score.features import DAMAGED, opened
from glow_tf.use.score.models import Models
from glow_tf.use.score.rule import Rule

FORMAT = 2  # 1 was the JSON of releases before 0.6
ABOUT, NUMBERS, NETWORK = "detector.json", "numbers.npz", "features.keras"
MODELS = ("prior.keras", "tuned.keras")
GOOD, WORST = "good images", "worst places"  # of the numbers; the others are the rule's
LARGEST = 2**34  # bytes of a member


def save(detector: Any, path: pathlib.Path) -> None:
    """Writes a detector: a zip file of its settings and numbers, and of its models as `.keras` files."""
    used, features = detector.models_, detector.models_.features
    models = dict(zip(MODELS, (used.prior, used.tuned), strict=True)) if used.prior is not None else {}
    settings = {n: own for n, own in detector.get_params().items() if n not in ("prior", "features")}
    arrays = {GOOD: detector.decision_scores_, WORST: detector._worst} | detector._rule.arrays
    if features is not None:
        models[NETWORK] = features.network
        arrays |= {name: value.numpy() for name, value in features.arrays.items()}
        settings |= {"image_shape": used.image_shape, "dtype": used.data_dtype}
    numbers, file = io.BytesIO(), io.BytesIO()
    np.savez(numbers, **arrays)
    with zipfile.ZipFile(file, "w") as content, tempfile.TemporaryDirectory() as folder:
        content.writestr(ABOUT, json_text({"format": FORMAT, **settings}))
        content.writestr(NUMBERS, numbers.getvalue())
        for name, model in models.items():
            model.save(pathlib.Path(folder, name))
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
            kept = set(content.namelist())
            models = [load_glow(content.extract(name, folder)) if name in kept else None for name in MODELS]
            network = opened(content.extract(NETWORK, folder)) if NETWORK in kept else None
        shape, dtype = (about.pop(name, None) for name in ("image_shape", "dtype"))
        detector = kind(models[0], **about, features=network)
        images = np.zeros((0, *(shape or models[0].image_shape)), dtype or models[0].data_dtype)
        detector.models_ = used = Models(models[0], network, images)
        used.tuned = models[1]
        if used.features is not None:
            used.features.assign({name: numbers.pop(name) for name in used.features.arrays})
        scores = (np.asarray(numbers.pop(name), float) for name in (GOOD, WORST))
        detector.decision_scores_, detector._worst = scores
        detector._rule = Rule(numbers)
        detector._check_contamination(len(detector.decision_scores_))
        given = {name: np.zeros((1, *own), np.float32) for name, own in used.condition_shapes.items()}
        black = np.zeros((1, *used.image_shape), used.data_dtype)
        detector.score_and_heat(black, of_names(given))  # with numbers of another rule this fails
    except DAMAGED as error:
        raise ConfigError(
            "calibration must be a file from `glow-tf score fit`. Releases before 0.6 wrote others: run it "
            f"again. Received: {str(path)!r}, {error}"
        ) from None
    return detector


class _Exported(tf.Module):
    """What the SavedModel holds: one function, of any number of images or of `count`, and all weights."""

    def __init__(self, detector: Any, count: int | None = None):
        super().__init__()
        used, self.weights = copy.copy(detector.models_), []
        if used.prior is not None:
            models = (used.prior, used.tuned)
            used.prior, used.tuned = map(exports.without_backward_pass, models)
            self.weights += [w.value for glow in (used.prior, used.tuned) for w in glow.weights]
        if used.features is not None:
            self.weights += [w.value for w in used.features.network.weights]
            self.features = used.features.arrays
        good = np.sort(detector.decision_scores_).astype(np.float32)

        def serve(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            kind, places = detector._rule(used.of_batch(*inputs), used.image_shape[:2])
            score = tf.maximum(kind, tf.reduce_max(places, axis=[1, 2]))
            at_least = tf.reduce_sum(tf.cast(good >= score[:, tf.newaxis] - 1e-4, tf.float32), axis=1)
            return {"score": score, "p_value": (1 + at_least) / (1 + len(good)), "map": places}

        shapes = [tf.TensorSpec([count, *own.shape[1:]], own.dtype, own.name) for own in used.signature]
        self.serve = tf.function(serve, input_signature=shapes, autograph=False)


def export(detector: Any, path: pathlib.Path, kind: str) -> None:
    """Writes a SavedModel, or a file of ONNX; see `NoveltyDetector.export`."""
    if kind not in EXPORTS:
        raise ConfigError(f"format must be one of {', '.join(EXPORTS)}. Received: format={kind!r}")
    if kind == "onnx":
        module = _Exported(detector, 1)
        write_atomically(path, exports.to_onnx(module.serve.python_function, module.serve.input_signature))
    else:
        exports.check_target(path)
        module = _Exported(detector)
        exports.write(module, {"serving_default": module.serve}, path)
