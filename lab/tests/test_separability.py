"""Levels in one part are levels, and all models of the benchmark train."""

import numpy as np
import pytest
from small import eagerly, perturb

from glow_tf import Flow, PartsTrainer, TrainConfig
from lab.benchmarks.separability import VARIANTS, model_of

SHAPE = (8, 8, 3)
SETTINGS = {"flow_steps": 2, "width": 6, "condition_features": 4}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, *SHAPE)).astype(np.uint8)


def made(variant, images):
    flow = Flow(model_of(variant, SHAPE, 3, **SETTINGS), dtype="float64")
    with eagerly():
        flow.initialize(images)
    perturb(flow)
    return flow


def test_levels_in_one_part_are_levels(images):
    apart, together = made("levels", images), made("levels_together", images)
    together.parts[0].set_weights([w for part in apart.parts for w in part.get_weights()])
    v = apart.dequantized(images, noise=0.3)
    np.testing.assert_allclose(together.dequantized_log_prob(v), apart.dequantized_log_prob(v), rtol=1e-10)


def test_all_models_have_as_many_coupling_networks():
    for variant in VARIANTS:
        flow = Flow(model_of(variant, SHAPE, 3, **SETTINGS))
        last = [
            w for part in flow.parts for w in part.weights if w.path.endswith("coupling_network_last_kernel")
        ]
        assert sum(kernel.shape[0] for kernel in last) == 6, variant


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_trains(variant, images):
    flow = Flow(model_of(variant, SHAPE, 3, **SETTINGS))
    trainer = PartsTrainer(flow)
    schedule = "simultaneous" if variant == "levels" else "end_to_end"
    trainer.compile(TrainConfig(schedule=schedule, part_epochs=3, finetune_epochs=0), steps_per_epoch=2)
    assert np.isfinite(trainer.fit(images, verbose=0).history["loss"]).all()
