"""Where the log-likelihood of an image comes from: each resolution's share, place by place."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.model.glow import Glow

Maps = dict[tuple[int, int], tf.Tensor]


def place_maps(glow: Glow, images: tf.Tensor, condition: Condition = None) -> Maps:
    """Returns height and width of a resolution → what it says of each of its places, [B, h, w, 2].

    The first is log p of what is coded there, in nats: log N(eps; 0, I) of the latents, and the
    log-determinants of the maps to them, without that of dequantisation. The second is the mean square of the
    latents, 1 on average where the model is right. Images are of the model's type, at the middle of the bins.
    """
    passage = glow.enter(images, 0.5)
    condition = glow.checked_condition(condition)
    log_dets: dict[tuple[int, int], tf.Tensor] = {}
    latents: dict[tuple[int, int], list[tf.Tensor]] = {}

    def add(log_det: tf.Tensor, own: Mapping | tuple = ()) -> None:
        size = tuple(log_det.shape[1:3])
        log_dets[size] = log_dets.get(size, 0.0) + log_det
        for eps in own:
            latents.setdefault(tuple(eps.shape[1:3]), []).append(eps)

    h = passage.h
    for part in glow.parts:
        given = part.read(condition)
        for bijector in part.bijectors:
            h, own, log_det = bijector.places_in_part(h, *bijector.read(given))
            add(log_det, own)
    prior = glow.parts[-1].prior
    eps, log_det = prior.forward_and_log_det_map(h, *prior.read(given))
    add(log_det, (eps,))
    maps = {}
    for size, own in latents.items():
        eps = tf.concat(own, axis=-1)
        squares = tf.reduce_mean(tf.square(eps), axis=-1)
        channels = eps.shape[-1]
        log_prob = log_dets[size] - 0.5 * channels * (squares + 1.8378770664093453)
        maps[size] = tf.stack([log_prob, squares], axis=-1)
    return maps
