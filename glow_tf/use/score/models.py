"""The models that a detector compares good images with others by."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf import store
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import PLAIN, Mode
from glow_tf.config import PRIOR, PRIORS, TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import with_progress
from glow_tf.model.compiled_model import require_pictures
from glow_tf.model.conditions import check_given, some_of
from glow_tf.model.density_model import checked_images
from glow_tf.model.flow import Flow
from glow_tf.training.trainer import PartsTrainer
from glow_tf.training.tuned import tuned
from glow_tf.use.images import fitted
from glow_tf.use.latents import batch_of
from glow_tf.use.score.choice import View, chosen, copied
from glow_tf.use.score.damage import damaged
from glow_tf.use.score.features import Features
from glow_tf.use.score.rule import compared, place_maps

MOST_JUDGES = 500  # of the images that are held out, which choose the epoch
LEAST_GAIN = 0.01  # bits/dim; a prior that had seen such images gained none, others 0.5 and more
KNOWN = (
    "tuning made good images that were held out only {:.3f} bits/dim likelier: the prior knew such images "
    "before, and much that is unlike them may pass. A prior that has not seen them, such as --model=prior, "
    "tells more"
)


class Tuner:
    """Tunes one copy of a prior on sets of images; its steps are traced once for all of them.

    Args:
      prior: to start from. It stays as it is.
      count: images in an epoch; what `tune` is given is repeated to so many.
      seed: of the order of the images and of the noise.
      epochs: at most; by default as many as suit so many images. 0: the copy stays the prior.
    """

    def __init__(self, prior: Flow, count: int, seed: int = 0, epochs: int | None = None):
        self.prior, self.count = prior, count
        self.flow = prior.recut()
        settings = tuned({}, count) | {"ema": 0.0}  # EarlyStopping restores weights, not averages
        self.epochs = settings["part_epochs"] if epochs is None else epochs
        self.patience = settings["patience"]
        if epochs is not None:
            settings |= {"part_epochs": max(epochs, 1), "warmup_steps": min(epochs * count // 12, 100)}
        names = TrainConfig.__dataclass_fields__
        config = TrainConfig(**{name: value for name, value in settings.items() if name in names})
        self.trainer = PartsTrainer(self.flow, seed=seed)
        self.trainer.compile(config)
        self.gains: list[float] = []  # of images held out, in bits/dim
        self._start: list[np.ndarray] = []

    def tune(
        self, images: np.ndarray, condition: Condition = None, held_out: Any = None, epochs: int | None = None
    ) -> int:
        """Tunes the copy on images [N, H, W, C], from the prior on; returns the epoch that it ends with.

        That is the best by `held_out`, images or (images, conditions); without them it is `epochs`.
        """
        if not self.epochs:
            return 0
        self.flow.set_weights(self.prior.get_weights())
        state = [variable for optimizer in self.trainer.optimizers for variable in optimizer.variables]
        self._start = self._start or [np.array(variable) for variable in state]
        for variable, value in zip(state, self._start, strict=True):
            variable.assign(value)
        which = np.resize(np.arange(len(images)), self.count)
        steps = (epochs or self.epochs) * max(self.count // self.trainer.options.batch_size, 1)
        bar = with_progress(None, steps, f"Tuning on {len(images)} images, steps")
        ticks = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: bar.update(), on_train_end=lambda *_, **__: bar.close()
        )
        arguments: dict[str, Any] = {"y": some_of(condition, which), "verbose": 0}
        if held_out is None:
            self.trainer.fit(images[which], epochs=epochs, callbacks=[ticks], **arguments)
            return epochs or self.epochs
        best = keras.callbacks.EarlyStopping(
            "val_bpd", mode="min", patience=self.patience, restore_best_weights=True
        )
        given = held_out if isinstance(held_out, tuple) else (held_out,)
        before = self.trainer.evaluate(*given, verbose=0, return_dict=True)["bpd"]
        self.trainer.fit(images[which], validation_data=held_out, callbacks=[ticks, best], **arguments)
        self.gains.append(before - best.best)
        return best.best_epoch + 1


class Models:
    """A prior and its tuned copy, densities of a frozen network's features, or both.

    Args:
      prior: as `NoveltyDetector` takes it.
      network: the frozen network, as `Features` takes it, or None.
      images: [N, H, W, C] of the shape and the type that the models shall take; N may be 0.

    Raises:
      ConfigError: there are no models, or they cannot take such images.
    """

    def __init__(self, prior: Any, network: keras.Model | str | None, images: np.ndarray):
        if prior is None and network is None:
            raise ConfigError("there must be a prior or features. Received: prior=None, features=None")
        self.prior, self.tuned, self.features, self.condition_shapes = None, None, None, {}
        self.image_shape = images.shape[1:]
        self.data_dtype = "uint8" if images.dtype == np.uint8 else "float32"
        if isinstance(prior, str) and prior == PRIOR:
            prior = PRIORS.get(images.shape[-1], PRIORS[3])
        if prior is not None:
            flow = store.load(prior) if isinstance(prior, str | os.PathLike) else prior
            if not isinstance(flow, Flow):
                raise ConfigError(
                    "prior must be a Flow, or a preset, a run's workdir or a .keras file. "
                    f"Received: prior={prior!r}"
                )
            require_pictures("NoveltyDetector", flow)
            self.prior = fitted(flow, images.shape[1:3])
            if self.prior is prior:  # which may be trained on
                self.prior = prior.recut()
            self.image_shape, self.data_dtype = self.prior.image_shape, self.prior.data_dtype
            self.condition_shapes = self.prior.condition_shapes
        if network is not None:
            self.features = Features(network, self.image_shape)
        self.gain: float | None = None
        self.areas: dict[View, float] = {}  # of what might be looked at
        self._function: Any = None

    @property
    def warning(self) -> str:
        """A sentence if the tuned copy is hardly better than the prior, so that they say the same."""
        return KNOWN.format(self.gain) if self.gain is not None and self.gain < LEAST_GAIN else ""

    @property
    def signature(self) -> list[tf.TensorSpec]:
        """What a batch is: images, and what the prior is given."""
        if self.prior is not None:
            return self.prior.endpoints()["encode"][1]
        return [tf.TensorSpec([None, *self.image_shape], self.data_dtype, "images")]

    def check(self, images: np.ndarray, condition: Condition = None) -> None:
        """Raises ConfigError unless the models can take images, and what is given with them."""
        checked_images(images, self.image_shape, self.data_dtype)
        if self.prior is not None:
            check_given(self.prior, condition, len(images))
        elif condition is not None:
            raise ConfigError("without a prior nothing is given with images. Received: a condition")

    def of_batch(self, images: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> list[tf.Tensor]:
        """Returns what is looked at: `compared` says it of pixels, `Features` of features."""
        return self._joined(self._apart(images, condition, mode))

    def _apart(self, images: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> list[tf.Tensor]:
        """Returns what `of_batch` does, with each map of features by itself."""
        found = self.features(images) if self.features is not None else []
        if self.prior is not None:
            maps = (place_maps(own, images, condition, mode) for own in (self.prior, self.tuned))
            found = compared(*maps) + found
        return found

    def _joined(self, found: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        count = 0 if self.features is None else len(self.features.used)
        return View(self.prior is not None, tuple(range(count))).of(found, count)

    def _traced(self) -> Any:
        if self._function is None:
            self._function = tf.function(self.of_batch, input_signature=self.signature, autograph=False)
        return self._function

    @property
    def of_a_place(self) -> list[np.ndarray]:
        """What `of_batch` returns, as 0 at one place of two images; only the shapes are known before."""
        found = self._traced().get_concrete_function().structured_outputs
        return [np.zeros((2, *(1 for _ in own.shape[1:-1]), own.shape[-1]), np.float32) for own in found]

    def __call__(self, images: np.ndarray, condition: Condition = None, way: Any = None) -> list[np.ndarray]:
        """Returns what `of_batch`, or a traced `way`, says of all images; ConfigError if there are none."""
        self.check(images, condition)
        function = way or self._traced()
        size, dtype = batch_of(images.shape[1:]), self.data_dtype
        places = [slice(start, start + size) for start in range(0, len(images), size)]
        found = []
        for place in with_progress(places, len(places), f"Scoring, batches of {size}"):
            given = () if condition is None else (self.prior.checked_condition(some_of(condition, place)),)
            found.append([own.numpy() for own in function(tf.cast(images[place], dtype), *given)])
        return [np.concatenate(own) for own in zip(*found, strict=True)]

    def fit(
        self,
        images: np.ndarray,
        condition: Condition,
        folds: Sequence[np.ndarray],
        seed: int,
        epochs: int | None,
    ) -> list[np.ndarray]:
        """Fits the models to good images, and returns what they said of those that were held out, in order.

        Each of `folds` says which images are held out, [N]. After several, a prior is tuned on all images.
        Otherwise models stay as they are: fitted to as many images as those that judged the held-out ones, so
        that new images look no more usual than these.
        """
        tuner, ends, found, hurt = None, [], [], []
        if self.prior is not None:
            count = len(images) if len(folds) > 1 else int((~folds[0]).sum())
            tuner = Tuner(self.prior, count, seed, epochs)
            self.tuned = tuner.flow
        rows = [] if self.features is None else self.features.rows(images, seed)
        apart = tf.function(self._apart, input_signature=self.signature, autograph=False)
        held_out = np.flatnonzero(np.any(folds, axis=0))
        which = copied(held_out) if self._may_choose(condition) else held_out[:0]
        copies = damaged(images[which], seed)[0]
        for fold in folds:
            kept, out = np.flatnonzero(~fold), np.flatnonzero(fold)
            if tuner:
                judges = out[:: math.ceil(len(out) / MOST_JUDGES)]
                by = images[judges] if condition is None else (images[judges], some_of(condition, judges))
                ends.append(tuner.tune(images[kept], some_of(condition, kept), by))
            if rows:
                self.features.fit([own[kept] for own in rows], seed)
            found.append(self(images[out], some_of(condition, out), apart))
            if len(own := copies[np.isin(which, out)]):
                hurt.append(self(own, way=apart))
        self.gain = float(np.mean(tuner.gains)) if tuner and tuner.gains else None
        order = np.argsort(np.concatenate([np.flatnonzero(fold) for fold in folds]))
        good = [np.concatenate(own)[order] for own in zip(*found, strict=True)]
        if hurt:
            count = len(self.features.used)
            view, self.areas = chosen(good, [np.concatenate(own) for own in zip(*hurt, strict=True)], count)
            good = view.of(good, count)
            self._keep(view)
        else:
            good = self._joined(good)
        if len(folds) > 1 and self.prior is not None:
            tuner.tune(images, condition, epochs=int(np.median(ends)))
            if self.features is not None:
                self.features.fit(rows, seed)
        return [np.asarray(own) for own in good]

    def _keep(self, view: View) -> None:
        """Leaves out what is not looked at."""
        if view.maps:
            self.features.keep(view.maps)
        else:
            self.features = None
        if not view.pixels:
            self.prior, self.tuned, self.gain = None, None, None

    def _may_choose(self, condition: Condition) -> bool:
        ways = 0 if self.features is None else len(self.features.used) + (self.prior is not None)
        return ways > 1 and condition is None and self.image_shape[-1] in (1, 3)

    @property
    def takes_pictures(self) -> bool:
        """Whether images are bytes of one channel or three, as files of pictures are."""
        return self.data_dtype == "uint8" and self.image_shape[-1] in (1, 3)
