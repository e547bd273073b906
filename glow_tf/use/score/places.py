"""Where the log-likelihood of an image comes from: each resolution's share, place by place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.last_line import LastLine
from glow_tf.model.glow import Glow

Maps = dict[tuple[int, int], tf.Tensor]


def place_maps(glow: Glow, images: tf.Tensor, condition: Condition = None) -> Maps:
    """Returns what each resolution of a flow says of its places: (h, w) → [B, h, w, 2].

    The first number is the mean log-density per latent number of the place, in nats: log N(eps; 0, I) and the
    log-determinants that belong to the place, without those of dequantisation. The second is the mean square
    of its latents, which is 1 on average where the model is right. Bytes are taken at the middle of the bins.
    """
    h, condition = glow.enter(images, 0.5).h, glow.checked_condition(condition)
    log_dets: Maps = {}
    latents: dict[tuple[int, int], list[tf.Tensor]] = {}

    def add(log_det: tf.Tensor, eps: Sequence[tf.Tensor]) -> None:
        size = tuple(log_det.shape[1:3])
        log_dets[size] = log_dets.get(size, 0.0) + log_det
        for own in eps:
            latents.setdefault(tuple(own.shape[1:3]), []).append(own)

    given = None
    for part in glow.parts:
        given = part.read(condition)
        for bijector in part.bijectors:
            h, eps, log_det = bijector.places_in_part(h, *bijector.read(given))
            if not isinstance(bijector, LastLine):  # its density is fixed
                add(log_det, eps)
    prior = glow.parts[-1].prior
    eps, log_det = prior.forward_and_log_det_map(h, *prior.read(given))
    add(log_det, (eps,))
    return {size: _summary(log_dets.get(size, 0.0), tf.concat(own, axis=-1)) for size, own in latents.items()}


def _summary(log_det: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_mean(tf.square(eps), axis=-1)
    log_prob = log_det / eps.shape[-1] - 0.5 * (squares + math.log(2 * math.pi))
    return tf.stack([log_prob, squares], axis=-1)
