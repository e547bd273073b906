"""Moving averages of the parts' weights, in the place of the weights while a model is evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from glow_tf.training.forward_pass import ForwardPass


class Averages:
    """Exponential moving averages of the weights, where the parts' optimizers keep them (Keras's `use_ema`).

    Each part's optimizer, which is built, adds to the averages of its own part, so they stand still while the
    part does not train. Training always goes on from the weights themselves.
    """

    def __init__(self, forward: ForwardPass, optimizers: Sequence[keras.optimizers.Optimizer]):
        # Optimizer → weights and their averages.
        self._kept = [
            (o, [(v.value, a.value) for v, a in zip(forward.variables_of(k), averages, strict=True)])
            for k, o in enumerate(optimizers)
            if (averages := [v for v in o.variables if o.use_ema and v.path.endswith("_average")])
        ]

    def start(self) -> None:
        """Lets the averages of each part that has made no step begin with its weights."""
        for optimizer, pairs in self._kept:
            if int(optimizer.iterations.numpy()) == 0:
                for weight, average in pairs:
                    average.assign(weight)

    def swap(self) -> None:
        """Exchanges weights and averages."""
        for _, pairs in self._kept:
            for weight, average in pairs:
                before = tf.identity(weight)
                weight.assign(average)
                average.assign(before)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context, the averages are in the place of the weights, and the other way round."""
        self.start()
        self.swap()
        try:
            yield
        finally:
            self.swap()
