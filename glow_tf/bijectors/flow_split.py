"""FlowSplit: factors channels out through a flow of its own, given the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bases import GaussianBase
from glow_tf.bijectors.bijector import Bound, Latents, Shape, WithLogDet, WithMap, log_det_by_place
from glow_tf.bijectors.condition import beside
from glow_tf.bijectors.coupling import read_config
from glow_tf.bijectors.flow_step import flow_step
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.networks import ConditionNetwork, CouplingNetwork
from glow_tf.bijectors.split import FactorsOut
from glow_tf.bijectors.stack import Stack
from glow_tf.config import CouplingConfig

SIDE = 384  # places of a tile without its margin; of a part of width 192, one activation has 130 MB
LARGE = 2  # tensors of more such tiles are cut


def needs_tiles(shape: Sequence[int | None]) -> bool:
    """Returns whether a tensor [B, H, W, C] is so large that it is cut; False where H or W is not known."""
    _, height, width, _ = shape
    return bool(height and width) and height * width > LARGE * SIDE**2


def in_tiles(
    function: Callable[..., Sequence[tf.Tensor]], radius: int, *tensors: tf.Tensor
) -> list[tf.Tensor]:
    """Returns function(*tensors), computed tile by tile; all tensors are [B, H, W, …].

    What the function returns for a place must follow from the tensors within `radius` places of it, and from
    whether the image ends there. Tiles overlap by that much, so the result is the same but for rounding.
    """
    height, width = tensors[0].shape[1:3]
    rows, before = [], []
    for of_image, of_tile in _cuts(height, radius):
        row = []
        for across_image, across_tile in _cuts(width, radius):
            with tf.control_dependencies(before):  # one tile after another, so that memory holds one
                tile = [tf.identity(tensor[:, of_image, across_image]) for tensor in tensors]
            before = [result[:, of_tile, across_tile] for result in function(*tile)]
            row.append(before)
        rows.append([tf.concat(results, axis=2) for results in zip(*row, strict=True)])
    return [tf.concat(results, axis=1) for results in zip(*rows, strict=True)]


def _cuts(length: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Yields, of an axis, what each tile reads, and what of the tile counts. All tiles have one length."""
    read = min(SIDE + 2 * radius, length)
    for start in range(0, length, SIDE):
        first = min(max(start - radius, 0), length - read)
        yield slice(first, first + read), slice(start - first, min(start + SIDE, length) - first)


@keras.saving.register_keras_serializable(package="glow_tf")
class FlowSplit(FactorsOut):
    """Keeps the first channels and factors the others out through flow steps that are given the first.

    A network turns what is kept into features. The flow steps' couplings read them, and so does the Gaussian
    that whitens what the flow steps make of z:
    log p(z | h) = log N(eps; 0, I) + log_det, where eps = whiten(flow(z; features(h)); features(h)).

    Where h does not depend on any weight, as after `Haar`, nothing that is learned reaches the bijector from
    elsewhere, and its log p(z | h) is a likelihood of its own.

    Shapes: [B, H, W, C] → h [B, H, W, kept] and a latent [B, H, W, C − kept].

    Args:
      kept: number of channels of h.
      coupling: of the flow steps; its `condition_channels` are the features of h.
      flow_steps: their number.
      permutation: see `InvertibleConv`.
      depth: convolutions of the network of h.
      given_channels: channels of a condition that the network reads beside h; 0: none.
      seed: of all random starting values.
      base: of what the flow steps make of z, given the features; see `ModelConfig.split_prior`.
      bijectors: of a flow step, where they are one's own; see `OwnFlowStep`.
      condition_activation: of the network of h; see `ConditionNetwork`.

    Reference: Yu et al. 2020 (Wavelet Flow), section 3, https://arxiv.org/abs/2010.13821
    """

    def __init__(
        self,
        kept: int,
        coupling: CouplingConfig | dict,
        flow_steps: int,
        permutation: str = "lu",
        depth: int = 2,
        given_channels: int = 0,
        seed: int = 0,
        base: str = "learned",
        bijectors: str = "",
        condition_activation: str = "silu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kept = kept
        self.own_bijectors = bijectors
        self.coupling = coupling = read_config(coupling)
        self.condition_channels = given_channels
        self.seed = seed
        policy, features = self.dtype_policy, coupling.condition_channels
        step = flow_step(bijectors, coupling, permutation, seed=seed, dtype=policy, name="flow_step")
        self.permutation = permutation
        self.features = ConditionNetwork(
            features,
            depth,
            seed=seed,
            activation=condition_activation,
            bounded=coupling.bounded,
            dtype=coupling.network_dtype or policy,
            name="features",
        )
        self.flow = Stack(step, flow_steps, dtype=policy, name="flow_steps")
        self.base = GaussianBase(base, features, coupling.bounded, dtype=policy, name="prior")

    def kept_of(self, channels: int) -> int:
        return self.kept

    def build(self, input_shape: Shape) -> None:
        *others, channels = input_shape
        self.features.build((*others, self.kept + self.condition_channels))
        self.flow.build((*others, channels - self.kept))
        self.base.build((*others, channels - self.kept))
        self.built = True

    def whiten(self, h: tf.Tensor, z: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        if self._is_large(z):
            eps, by_place = self.whiten_by_place(h, z, context)
            return eps, tf.reduce_sum(by_place, axis=[1, 2])
        seen = self._seen(h, context)
        u, of_flow = self.flow.forward_and_log_det(z, seen)
        eps, of_base = self.base.forward_and_log_det(u, seen)
        return eps, of_flow + of_base

    def whiten_by_place(self, h: tf.Tensor, z: tf.Tensor, context: Context = ALONE) -> WithMap:
        """Does what `whiten` does, and returns the log-determinant by place, [B, H, W]."""

        def whitened(h: tf.Tensor, z: tf.Tensor) -> WithMap:
            seen = self._seen(h, context)
            u, of_flow = log_det_by_place(self.flow, z, seen)
            eps, of_base = log_det_by_place(self.base, u, seen)
            return eps, of_flow + of_base

        return in_tiles(whitened, self.radius, h, z) if self._is_large(z) else whitened(h, z)

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, context: Context = ALONE
    ) -> tuple[tf.Tensor, Latents]:
        self._require_built()

        def coloured(h: tf.Tensor, eps: tf.Tensor) -> list[tf.Tensor]:
            seen = self._seen(h, context)
            u, _ = self.base.inverse_and_log_det(eps, seen)
            return [self.flow.inverse_in_part(u, (), bound, seen)[0]]

        eps = latents[-1]
        (z,) = in_tiles(coloured, self.radius, h, eps) if self._is_large(eps) else coloured(h, eps)
        return bound(tf.concat([h, z], axis=-1)), latents[:-1]

    def colour(self, h: tf.Tensor, eps: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        seen = self._seen(h, context)
        u, of_base = self.base.inverse_and_log_det(eps, seen)
        z, of_flow = self.flow.inverse_and_log_det(u, seen)
        return z, of_flow + of_base

    def initialize_in_part(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        h, z = self.cut(x)
        self.flow.initialize(z, Context(self.features.initialize(self._read(h, context))))
        return h

    @property
    def radius(self) -> int:
        """How many places away what a place depends on may lie, in both directions."""
        # The inverse needs most: the base reads neighbouring features, and each flow step what it made.
        of_flow, of_base = CouplingNetwork.RADIUS * self.flow.count, 1
        return of_flow + of_base + ConditionNetwork.RADIUS * self.features.depth

    @property
    def takes_tiles(self) -> bool:
        """Whether large images are computed in tiles: layers of one's own may see further."""
        return not (self.own_bijectors or self.coupling.network)

    def _is_large(self, z: tf.Tensor) -> bool:
        return self.takes_tiles and not self.condition_channels and needs_tiles(z.shape)

    def _read(self, h: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns what the network of h reads, [B, H, W, kept + given]."""
        channels = self.condition_channels
        return beside(h, context.condition, channels) if channels else h

    def _seen(self, h: tf.Tensor, context: Context) -> Context:
        """Returns what the flow steps and the base are handed: the features of h."""
        return Context(self.features.call(self._read(h, context), context.mode), context.mode)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "coupling": dataclasses.asdict(self.coupling),
            "kept": self.kept,
            "flow_steps": self.flow.count,
            "permutation": self.permutation,
            "depth": self.features.depth,
            "given_channels": self.condition_channels,
            "seed": self.seed,
            "base": self.base.kind,
            "bijectors": self.own_bijectors,
            "condition_activation": self.features.activation,
        }
