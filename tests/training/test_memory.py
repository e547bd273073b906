"""What is dropped is freed, so that a process can train one model after another."""

import gc
import weakref

import keras
import numpy as np
import pytest
from small import small_config
from tensorflow.python.framework.func_graph import FuncGraph

from glow_tf import Flow, PartsTrainer
from glow_tf.training.optimizers import FusedAdamax

KINDS = {
    "plain": (FusedAdamax, False),
    "reversible": (FusedAdamax, True),
    "keras": (keras.optimizers.Adamax, False),
}


def graphs():
    gc.collect()
    return {id(o) for o in gc.get_objects() if isinstance(o, FuncGraph)}


def layers():
    return sum(isinstance(o, keras.layers.Layer) for o in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reversible", "plain", "keras"])
def test_a_trainer_that_is_dropped_leaves_no_graph_and_no_layer_behind(kind):
    optimizer, reversible = KINDS[kind]
    images = np.zeros((8, 8, 8, 1), np.uint8)

    def train():
        flow = Flow(small_config(flow_steps=1, parts="by_block:2"))
        trainer = PartsTrainer(flow)
        scaled = "size" if optimizer is FusedAdamax else "none"
        options = {"clip_norm": 1.0, "reversible": reversible, "rate_scaling": scaled}
        trainer.compile([optimizer(1e-3) for _ in range(2)], **options)
        trainer.fit(images, batch_size=8, validation_data=images, verbose=0)
        return graphs(), weakref.ref(trainer)

    before, layers_before = graphs(), layers()
    during, trainer = train()
    assert during - before  # the train function and the test function
    assert graphs() <= before
    assert trainer() is None
    assert layers() == layers_before
