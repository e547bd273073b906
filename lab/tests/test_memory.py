"""Recomputation block by block has the gradients of the whole flow, and a frontier has what nothing beats."""

import numpy as np
import tensorflow as tf
from small import eagerly, perturb

from glow_tf import Flow, ModelConfig
from lab.benchmarks.memory import frontier, gradients_by_block


def test_gradients_block_by_block_are_those_of_the_flow():
    config = ModelConfig((8, 8, 3), flow_steps=2, width=8, num_blocks=2, parts="by_block:2")
    flow = Flow(config, dtype="float64")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    with eagerly():
        flow.initialize(images)
    perturb(flow)
    passage = flow.enter(images, 0.5)
    found = gradients_by_block(flow, passage)
    variables = [variable for _, variable in found]
    assert {v.path for v in variables} >= {v.path for part in flow.parts for v in part.flow_variables}
    with tf.GradientTape() as tape:
        nll = tf.reduce_mean(flow.through_parts(passage).truncated_nlls[-1])
    for (own, _), expected in zip(found, tape.gradient(nll, [v.value for v in variables]), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)


def test_the_frontier_has_what_no_other_beats_in_both():
    assert frontier({"a": (1.0, 9.0), "b": (2.0, 9.5), "c": (2.5, 4.0), "d": (3.0, 4.0)}) == ["a", "c"]
