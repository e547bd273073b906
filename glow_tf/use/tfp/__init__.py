"""Models as distributions and bijectors of TensorFlow Probability."""
