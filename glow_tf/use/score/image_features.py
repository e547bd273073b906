"""What can be said of an image under a model: its bits, the term of its latents, what a file format needs."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.likelihood import bits_per_dim, standard_normal_log_prob
from glow_tf.data.parallel import in_parallel
from glow_tf.model.compiled_model import require_pictures
from glow_tf.model.conditions import check_given
from glow_tf.model.glow import Glow
from glow_tf.run.pictures import to_pil
from glow_tf.use.evaluation import terms
from glow_tf.use.latents import in_batches
from glow_tf.use.models import TrainedModel

DECIMALS = 5  # of bits per dimension


@dataclasses.dataclass(frozen=True)
class Features:
    """Of N images, [N] each, bits per dimension.

    Attributes:
      nll: minus the log-likelihood at the middle of the bins.
      latent: the term of it that the whitened latents have, −log N(eps; 0, I). It measures how far from the
        origin an image lies, and is blind to how the flow stretches space around it.
      codec: what the image takes as a lossless file, the smaller of PNG and WebP: how complex it is.
      levels: the bits of each part of a model of levels, [N, parts]; their sum is `nll`. None of other
        models, and of exports.

    All are kept to five decimals: the last digits of what a model computes depend on the batch that an image
    is in, and copies of an image must be equally unusual.
    """

    nll: np.ndarray
    latent: np.ndarray
    codec: np.ndarray
    levels: np.ndarray | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (values := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, np.round(values, DECIMALS))

    @property
    def table(self) -> np.ndarray:
        """The features of all models side by side, [N, 3]."""
        return np.stack([self.nll, self.latent, self.codec], axis=1)

    @property
    def whole_table(self) -> np.ndarray:
        """The features side by side, with those of levels if there are any, [N, 3 + parts]."""
        return self.table if self.levels is None else np.concatenate([self.table, self.levels], axis=1)

    def __getitem__(self, which: slice | np.ndarray) -> Features:
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Features(*(None if values is None else values[which] for values in fields))

    def __len__(self) -> int:
        return len(self.nll)


def features(
    model: TrainedModel, images: np.ndarray, condition: Condition = None, levels: bool = True
) -> Features:
    """Computes the features of images uint8 [N, H, W, C], given a condition [N, …] if the model needs one.

    Without `levels`, the bits of levels are left out, and those of the image may be had faster.

    ConfigError if the model's data are no pictures, whose size in a file could be told.
    """
    require_pictures("scoring by the size of a file", model)
    check_given(model, condition, len(images))

    levels = levels and isinstance(model, Glow) and model.config.design.separable

    def of_model(batch: np.ndarray, condition: Condition) -> np.ndarray:
        eps = tf.cast(model.encode(batch, condition=condition), tf.float64)
        latent = bits_per_dim(-standard_normal_log_prob(eps), [model.dimensions])
        if levels:
            bits = _bits_of_levels(model, batch, condition)
        else:
            bits = [model.score(batch, condition)["bits_per_dim"]]
        return np.stack([latent, *bits], axis=1, dtype=np.float64)

    empty = np.empty((0, 1 + (len(model.parts) if levels else 1)))
    found = in_batches(of_model, images, "Scoring", empty, condition)
    codec = np.fromiter(in_parallel(codec_bits, list(images)), np.float64, len(images))
    latent, of_parts = found[:, 0], found[:, 1:]
    return Features(of_parts.sum(axis=1), latent, codec, of_parts if levels else None)


def _bits_of_levels(glow: Glow, images: np.ndarray, condition: Condition) -> list[np.ndarray]:
    v, given = glow.dequantized(images, noise=0.5), glow.checked_condition(condition)
    first, *others = map(np.asarray, terms(glow, v, given))
    bits = list(map(np.add, others[::2], others[1::2]))  # of flow steps, and of latents
    return [bits[0] + first, *bits[1:]]  # dequantisation counts as of part 1


def codec_bits(image: np.ndarray) -> float:
    """Returns the bits per dimension of an image uint8 [H, W, C] as PNG or as lossless WebP: the smaller."""
    picture = to_pil(image)
    sizes = []
    for kind, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "method": 4})):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        sizes.append(file.tell())
    return 8 * min(sizes) / image.size
