"""What a model with classes says about images and their labels."""

from collections.abc import Sequence

import numpy as np

from glow_tf.data.progress import with_progress
from glow_tf.errors import ConfigError
from glow_tf.labels import require_classes
from glow_tf.likelihood import bits_per_dim
from glow_tf.use.models import TrainedModel
from glow_tf.use.seeds import seed_of

BATCH = 256


def label_bits(model: TrainedModel, images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns the bits/dim of every image given each class, [N, classes], at one noise draw.

    The class with the fewest bits is the likeliest, if all classes are equally frequent.

    Args:
      model: a `Glow` or an `ExportedModel` with classes.
      images: uint8 [N, H, W, C], at least one.
      seed: of the noise; see `seed_of`.

    Raises:
      ConfigError: the model has no classes, or images have another type or shape.
    """
    require_classes("label_bits", model.classes)
    starts = range(0, len(images), BATCH)
    rows = [
        np.asarray(model.label_log_probs(images[start : start + BATCH], seed_of(seed, k)))
        for k, start in enumerate(with_progress(starts, len(starts), f"Labels, batches of {BATCH}"))
    ]
    return bits_per_dim(-np.concatenate(rows), model.image_shape)


def labels_of(model: TrainedModel, names: Sequence[str]) -> np.ndarray:
    """Returns the labels of classes by their names, or their numbers as text: integers [N].

    Raises:
      ConfigError: a name is no class of the model.
    """
    places = {str(place): place for place in range(len(model.classes))}
    places |= {name: place for place, name in enumerate(model.classes)}
    if unknown := [name for name in names if name not in places]:
        classes = ", ".join(model.classes) or "none; it was trained without --conditional"
        raise ConfigError(f"labels must be classes of the model: {classes}. Received: {unknown}")
    return np.array([places[name] for name in names], np.int32)
