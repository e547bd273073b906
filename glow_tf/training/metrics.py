"""Metrics of an evaluation."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="glow_tf")
class MeanAndError(keras.metrics.Metric):
    """Mean over examples, and its standard error, as `name` and `name_se`."""

    def __init__(self, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        # float64: a variance from sums of squares would lose its digits in float32.
        self.total = self.add_weight(name="total", initializer="zeros", dtype="float64")
        self.squares = self.add_weight(name="squares", initializer="zeros", dtype="float64")
        self.count = self.add_weight(name="count", initializer="zeros", dtype="float64")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds the values of a batch, [B], those of weight 0 left out."""
        values = tf.cast(values, tf.float64)
        weights = tf.ones_like(values) if sample_weight is None else tf.cast(sample_weight, tf.float64)
        self.total.assign_add(tf.reduce_sum(weights * values))
        self.squares.assign_add(tf.reduce_sum(weights * tf.square(values)))
        self.count.assign_add(tf.reduce_sum(weights))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns mean and standard error."""
        count = tf.convert_to_tensor(self.count)
        mean = self.total / count
        variance = tf.maximum(self.squares / count - mean**2, 0) / tf.maximum(count - 1, 1)
        return {self.name: mean, f"{self.name}_se": tf.sqrt(variance)}
