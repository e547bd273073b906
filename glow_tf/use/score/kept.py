"""A fitted detector as a folder of plain files, and as a SavedModel."""

from __future__ import annotations

import copy
import json
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf import store
from glow_tf.bijectors.mode import Mode
from glow_tf.config.choices import EXPORTS
from glow_tf.core.durable_files import replaced_folder, write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import json_text, read_json
from glow_tf.model.flow import Flow
from glow_tf.store.files import read_arrays, shapes_of, write_arrays
from glow_tf.use import exports
from glow_tf.use.images import check_needed
from glow_tf.use.score import lite0
from glow_tf.use.score.features import opened
from glow_tf.use.score.models import Models
from glow_tf.use.score.rule import Rule

FORMAT = 1
ABOUT, NUMBERS = "detector.json", "detector.safetensors"
PRIOR, TUNED = "prior", "tuned"  # presets
OWN = frozenset({ABOUT, NUMBERS, PRIOR, TUNED})
GOOD = "good images"  # of the numbers; the others are the rule's and the features'
SETTINGS = ("contamination", "seed", "epochs")
MOST_BYTES = 2**20  # of detector.json
MOST_NUMBERS = 2**24  # of an image that a file asks for


def save(detector: Any, folder: pathlib.Path) -> None:
    """Writes a detector: its settings, its numbers, and its models as presets, but for the network."""
    used = detector.models_
    about = {"format": FORMAT, "image_shape": used.image_shape, "dtype": used.data_dtype}
    about |= {name: getattr(detector, name) for name in SETTINGS}
    about["features"] = used.features and used.features.network.name
    about["maps"] = used.features and used.features.used
    about["precision"] = used.prior and used.prior.config.precision
    arrays = {GOOD: detector.decision_scores_, **detector._rule.arrays}
    if used.features is not None:
        arrays |= {name: value.numpy() for name, value in used.features.arrays.items()}
    with replaced_folder(folder, "detector", OWN) as temporary:
        if used.prior is not None:
            store.save(used.prior, temporary / PRIOR)
            store.save(used.tuned, temporary / TUNED)
        write_arrays(temporary / NUMBERS, arrays)
        (temporary / ABOUT).write_text(json_text(about), encoding="utf-8")


def load(kind: type, folder: pathlib.Path, features: keras.Model | str | None) -> Any:
    """Reads what `save` wrote; ConfigError if it is damaged, or of other features. `lite0` is known."""
    try:
        about = read_json(folder / ABOUT, MOST_BYTES)
        if about["format"] != FORMAT:
            raise ValueError("another format")
        if features is None and about["features"] == lite0.NAME:
            features = opened(lite0.NAME)
        if (about["features"] is None) != (features is None):
            raise ValueError(f"features must be the network that it was fitted with: {about['features']!r}")
        prior, tuned = (_model(folder / name, about["precision"]) for name in (PRIOR, TUNED))
        detector = kind(prior, **{name: about[name] for name in SETTINGS}, features=features)
        shape = tuple(map(int, about["image_shape"] if prior is None else prior.image_shape))
        if prior is not None and tuned.config != prior.config:
            raise ValueError("the tuned model must be a copy of the prior")
        if np.prod(shape, dtype=float) > MOST_NUMBERS:
            raise ValueError(f"images of at most {MOST_NUMBERS} numbers are looked at, and not of {shape}")
        detector.models_ = used = Models(prior, features, np.empty((0, *shape), np.dtype(about["dtype"])))
        used.tuned = tuned
        if features is not None:
            used.features.keep(about["maps"])
        known = used.features.arrays if features is not None else {}
        # Numbers of this rule, whatever they are, have the shapes of others.
        expected = {**Rule.of(used.of_a_place).arrays, **known}
        count = shapes_of(folder / NUMBERS)[GOOD][0]
        expected[GOOD] = np.broadcast_to(0.0, count)
        arrays = read_arrays(folder / NUMBERS, expected)
        for name, value in known.items():
            value.assign(arrays.pop(name))
        detector.decision_scores_ = arrays.pop(GOOD)
        detector._rule = Rule(arrays)
        detector.others_ = {}
        detector._check_contamination(count)
    except (OSError, LookupError, TypeError, ValueError, OverflowError, json.JSONDecodeError) as error:
        raise ConfigError(
            "calibration must be the folder of a detector, as `glow-tf score fit` and NoveltyDetector.save "
            f"write it. Received: {str(folder)!r}, {error}"
        ) from None
    return detector


def _model(folder: pathlib.Path, precision: str | None) -> Flow | None:
    """Returns a model of a detector, which has none without a precision."""
    if precision is None:
        return None
    flow = store.load(folder, precision=precision)
    check_needed(flow, flow.image_shape[:2], f"images of {folder}", "use smaller ones")
    return flow


class _Exported(tf.Module):
    """What the SavedModel holds: one function, of any number of images, and all weights.

    ONNX needs the function of `count` images.
    """

    def __init__(self, detector: Any, count: int | None = None):
        super().__init__()
        used, self.weights = copy.copy(detector.models_), []
        if used.prior is not None:
            self.weights += [w.value for flow in (used.prior, used.tuned) for w in flow.weights]
        if used.features is not None:
            self.weights += [w.value for w in used.features.network.weights]
            self.features = used.features.arrays
        mode = Mode(inlined=count is not None)
        good = np.sort(detector.decision_scores_).astype(np.float32)

        def serve(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            kind, places = detector._rule(used.of_batch(*inputs, mode=mode), used.image_shape[:2])
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
