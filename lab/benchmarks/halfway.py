"""Architectures between a Glow and levels, which `separability.py` compares; the package has none of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.architectures import Levels, MultiScale
from glow_tf.bijectors import Bijector, FlowSplit, Haar, Split
from glow_tf.bijectors.bijector import Bound, Latents, PartOutput, Shape
from glow_tf.bijectors.condition import Condition, beside
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.config import ModelConfig
from glow_tf.config.notations import Cuts
from glow_tf.layout.partition import Element, PartLayout

FEATURE_SCALE = 1 / 16  # of shared features


class ConditionalGlow(MultiScale):
    """A Glow whose details are transformed by flow steps given what is kept.

    Of the K flow steps of every block but the last, half see all channels. Then half of the channels are
    split off, and the other flow steps see these alone, given features of the half that is kept. In a Glow
    all K flow steps see all channels, and a Gaussian given what is kept ends the block.
    """

    name = "a conditional Glow"

    def steps_in_series(self, config: ModelConfig, k: int) -> int:
        half = config.flow_steps // 2
        return (config.num_blocks - 1) * half + config.flow_steps

    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        half = config.flow_steps // 2
        seen = [e for e in layout.elements if e.block == config.num_blocks or e.step <= half]
        splits = iter([e for e in seen if e.kind == "split"])
        found = super().bijectors(dataclasses.replace(layout, elements=tuple(seen)), config, dtype)
        return [self._details(next(splits), config, dtype) if isinstance(b, Split) else b for b in found]

    def _details(self, split: Element, config: ModelConfig, dtype: Any) -> FlowSplit:
        half = config.flow_steps // 2
        features = config.condition_features
        return FlowSplit(
            split.channels // 2,
            dataclasses.replace(config.coupling_config, condition_channels=features),
            config.flow_steps - half,
            config.permutation,
            config.condition_depth,
            seed=self.seed(config, dataclasses.replace(split, step=half + 1)),
            prior=config.split_prior,
            condition_activation=config.condition_activation,
            dtype=dtype,
            name=f"block_{split.block}_details",
        )


class FinestMixture(Levels):
    """Levels whose finest level alone has couplings by mixtures of logistics."""

    name = "levels with mixtures"

    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        is_finest = any(e.block == 1 for e in layout.elements)
        own = dataclasses.replace(config, coupling="mixture") if is_finest else config
        return super().bijectors(layout, own, dtype)


class LevelsTogether(Levels):
    """Levels as one part, which one optimizer trains end to end."""

    name = "levels in one part"
    separable = False
    shares = False

    def cuts(self, config: ModelConfig) -> Cuts:
        return Cuts((sum(super().cuts(config).counts),))

    def widths(self, config: ModelConfig) -> tuple[int, ...]:
        return super().widths(config)[:1]

    def steps_in_series(self, config: ModelConfig, k: int) -> int:
        return max(Levels().cuts(config).counts)

    def place(self, config: ModelConfig, step: Element) -> int:
        return Levels().place(config, step)

    def layouts(self, config: ModelConfig) -> tuple[PartLayout, ...]:
        apart = Levels().layouts(config)
        elements = tuple(element for layout in apart for element in layout.elements)
        return (PartLayout(elements, apart[-1].output_shape),)

    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        *finer, coarsest = Levels().layouts(config)
        made = [b for own in finer for b in super(LevelsTogether, self).bijectors(own, config, dtype)]
        splits = [b for b in made if isinstance(b, FlowSplit)]
        rest = super().bijectors(coarsest, config, dtype)
        return [SharedDetails(splits, self.shares, dtype=dtype, name="details"), *rest]


class SharedLevels(LevelsTogether):
    """Levels whose condition networks also read the features of the next coarser level."""

    name = "levels that share features"
    shares = True


class SharedDetails(Bijector):
    """The details of all levels: x → the coarsest image, and one latent for each level.

    log p(x) = log p(x_L) + Σ log p(z_l | f_l). Here z_l are the Haar details that the image x_l lacks, and
    f_l are the features that the network of level l makes of x_l and, where they are shared, of f_{l+1}.
    Each f_l is a function of x_l alone, so the flow of each level is a bijection given x_l. Every network
    runs once, from the coarsest to the finest, in both directions.

    Args:
      splits: of each level, the finest first, not built.
      shares: whether networks read the features of the next coarser level.
    """

    def __init__(self, splits: Sequence[FlowSplit], shares: bool, **kwargs):
        super().__init__(**kwargs)
        self.splits = list(splits)
        self.haar = Haar(dtype=self.dtype_policy, name="haar")
        self.shares = shares

    def build(self, input_shape: Shape) -> None:
        for split in self.splits:
            if self.shares and split is not self.splits[-1]:
                split.condition_channels = split.coupling.condition_channels
            input_shape = self.haar.output_shape_of(input_shape)
            split.build(input_shape)
            input_shape = (*input_shape[:-1], split.kept)
        self.haar.built = self.built = True

    def shapes_in_part(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        latents = []
        for split in self.splits:
            input_shape, own = split.shapes_in_part(self.haar.output_shape_of(input_shape))
            latents += own
        return input_shape, tuple(latents)

    def forward_in_part(self, so_far: PartOutput, condition: Condition = None) -> PartOutput:
        images, details, log_det = self._pyramid(so_far.h)
        latents, log_prob = [], so_far.latents_log_prob
        for split, z, features in zip(self.splits, details, self._features(images), strict=True):
            u, of_flow = split.flow.forward_and_log_det(z, features)
            eps, of_prior = split.prior.forward_and_log_det(u, features)
            latents.append(eps)
            log_prob += standard_normal_log_prob(eps) + of_flow + of_prior
        return PartOutput(images[-1], (*so_far.latents, *latents), log_prob, so_far.log_det + log_det)

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, condition: Condition = None
    ) -> tuple[tf.Tensor, Latents]:
        features, latents = None, list(latents)
        for split in reversed(self.splits):
            features = split.features.call(self._read(split, h, features))
            u = split.prior.inverse(latents.pop(), features)
            z = split.flow.inverse_in_part(u, (), bound, features)[0]
            h = bound(self.haar.inverse(tf.concat([h, z], axis=-1)))
        return h, latents

    def initialize_in_part(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        self.ensure_built(x)
        images, details, _ = self._pyramid(x)
        found = self._features(images, initialize=True)
        for split, z, features in zip(self.splits, details, found, strict=True):
            split.flow.initialize(z, features)
        return images[-1]

    def _pyramid(self, x: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
        """Returns the image and the details of each level, the finest first, and log|det|, [B]."""
        images, details, total = [], [], 0.0
        for split in self.splits:
            y, log_det = self.haar.forward_and_log_det(x)
            x, z = tf.split(y, [split.kept, y.shape[-1] - split.kept], axis=-1)
            images.append(x)
            details.append(z)
            total += log_det
        return images, details, total

    def _features(self, images: Sequence[tf.Tensor], initialize: bool = False) -> list[tf.Tensor]:
        """Returns the features of each level, the finest first."""

        def from_the_coarsest() -> Iterator[tf.Tensor]:
            features = None
            for split, image in zip(reversed(self.splits), reversed(images), strict=True):
                seen = self._read(split, image, features)
                features = split.features.initialize(seen) if initialize else split.features.call(seen)
                yield features

        return list(from_the_coarsest())[::-1]

    def _read(self, split: FlowSplit, image: tf.Tensor, coarser: tf.Tensor | None) -> tf.Tensor:
        """Returns what the network of a level reads; features of half its size are enlarged.

        They are scaled, so that at first all of them together weigh about as much as the image.
        """
        channels = split.condition_channels
        return beside(image, coarser * FEATURE_SCALE, channels) if channels else image
