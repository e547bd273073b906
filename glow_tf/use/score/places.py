"""Where the log-likelihood of an image comes from: each resolution's share, place by place."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors import Bijector, FlowSplit, LastLine, Split
from glow_tf.bijectors.bijector import Latents, PartOutput, read_by
from glow_tf.bijectors.by_place import evenly, log_det_by_place, with_slopes
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import ALONE, PLAIN, Context, Mode
from glow_tf.model.glow import Glow

Maps = dict[tuple[int, int], tf.Tensor]


def place_maps(glow: Glow, images: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> Maps:
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

    context = ALONE
    for part in glow.parts:
        context = part.read(condition, mode)
        for bijector in part.bijectors:
            h, eps, log_det = places_in_part(bijector, h, context)
            if not isinstance(bijector, LastLine):  # its density is fixed
                add(log_det, eps)
    eps, log_det = log_det_by_place(glow.parts[-1].prior, h, context)
    add(log_det, (eps,))
    return {size: _summary(log_dets.get(size, 0.0), tf.concat(own, axis=-1)) for size, own in latents.items()}


@functools.singledispatch
def places_in_part(
    bijector: Bijector, x: tf.Tensor, context: Context = ALONE
) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    """Runs x [B, H, W, C] forward; returns what goes on, the latents, and log|det| by place, [B, H', W'].

    The latents are those that are factored out, and the log-determinant is that of the map to both.
    """
    if bijector.shapes(x.shape)[1]:
        output = bijector.forward_in_part(PartOutput.start(x), *read_by(bijector, context))
        return output.h, output.latents, evenly(output.log_det_of_all, output.h)
    h, log_det = log_det_by_place(bijector, x, context)
    return h, (), log_det


@places_in_part.register
def _(split: Split, x: tf.Tensor, context: Context = ALONE) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    h, z = split.cut(x)
    eps, log_det = with_slopes(lambda z: split.whiten(h, z, context)[0], z)
    return h, (eps,), log_det


@places_in_part.register
def _(split: FlowSplit, x: tf.Tensor, context: Context = ALONE) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    h, z = split.cut(x)
    eps, log_det = split.whiten_by_place(h, z, context)
    return h, (eps,), log_det


def _summary(log_det: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_mean(tf.square(eps), axis=-1)
    log_prob = log_det / eps.shape[-1] - 0.5 * (squares + math.log(2 * math.pi))
    return tf.stack([log_prob, squares], axis=-1)
