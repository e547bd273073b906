"""Flow heads: what they compute, where they run, and where they do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, rows_of, train
from small import copy_of, objectives, small_config, small_glow

import glow_tf
from glow_tf import ConfigError, Flow, PartsTrainer, phases
from glow_tf.architectures import design_of
from glow_tf.architectures.partition import relative_cost
from glow_tf.architectures.schedule import end_to_end, one_part, simultaneous
from glow_tf.model.parts import get_weights_by_step, set_weights_by_step
from glow_tf.training.optimizers import FusedAdamax

HEAD = {"local_prior": "flow:4x1"}
FAST = {"tensorboard": False, "sample_every": 0, "export": False, "augment": "none", "train_examples": 64}


def make_trainer(schedule="simultaneous", part_epochs=2, finetune=1, devices=(), options=None, **changes):
    flow = Flow(small_config(**{"parts": "across_block:3", **HEAD, **changes}), devices, name="glow")
    n = len(flow.parts)
    trainer, planned = PartsTrainer(flow, seed=3), phases(schedule, n, part_epochs, finetune)
    trainer.compile([FusedAdamax(5e-3) for _ in range(n)], clip_norm=1.0, phases=planned, **options or {})
    return trainer


def heads_of(trainer):
    return [objective.flow for objective in trainer.local_objectives[:-1]]


# What a head is


def test_a_head_has_the_first_flow_steps_of_each_remaining_block():
    config = small_config(num_blocks=3, flow_steps=4, parts="2,2,3,5", local_prior="flow:4x2")
    layouts = design_of(config).layouts
    heads = [[(e.kind, e.block, e.step) for e in layout.head] for layout in layouts]
    block_2 = [("squeeze", 2, 0), ("flow_step", 2, 1), ("flow_step", 2, 2), ("split", 2, 0)]
    block_3 = [("squeeze", 3, 0), ("flow_step", 3, 1), ("flow_step", 3, 2)]
    assert heads[0] == [("flow_step", 1, 3), ("flow_step", 1, 4), ("split", 1, 0), *block_2, *block_3]
    assert heads[1] == [*block_2, *block_3]  # the split of block 1 belongs to the part
    assert heads[2] == [("flow_step", 2, 4), ("split", 2, 0), *block_3]
    assert heads[3] == []
    assert {e.hidden for layout in layouts for e in layout.head if e.kind == "flow_step"} == {4}


def test_a_head_costs_its_forward_and_backward_pass_where_its_part_is_trained():
    layouts = design_of(small_config(width=64, flow_steps=4, parts="across_block:3", **HEAD)).layouts
    plain = design_of(small_config(width=64, flow_steps=4, parts="across_block:3")).layouts
    whole = sum(layout.forward_macs for layout in plain)
    for trained in ([0], [1], [2], [0, 1, 2]):
        heads = sum(layouts[k].head_macs for k in trained) / whole
        assert relative_cost(layouts, trained) == pytest.approx(relative_cost(plain, trained) + heads)
    assert relative_cost(layouts, [0, 1, 2], scored=[2]) == 1


@pytest.mark.parametrize("local_prior", ["flow", "flow:8", "flow:0x2", "flow:8x0", "flow:-8x2", "flow:8x2x3"])
def test_another_notation_is_refused(local_prior):
    with pytest.raises(ConfigError, match=r"flow:WxK with W and K from 1.* Received: local_prior="):
        small_config(local_prior=local_prior)


# What a head computes


@pytest.mark.parametrize("parts", ["across_block:3", "by_block:2"])
def test_a_head_that_is_the_rest_gives_the_models_own_likelihood(parts, small_images, eager):
    flow = small_glow(parts=parts, flow_steps=3, local_prior="flow:8x3", dtype="float64")
    trainer = PartsTrainer(flow)
    for k, head in enumerate(heads_of(trainer)):
        rest = [b for later in flow.parts[k + 1 :] for b in later.bijectors]
        own = get_weights_by_step([*rest, flow.parts[-1].base])
        set_weights_by_step([*head.bijectors, head.base], own)
    whole = flow.bits_per_dim(small_images, trainer.seed)
    loss, truncated = objectives(trainer, tf.constant(small_images), simultaneous(len(flow.parts)))
    assert len(truncated) == len(flow.parts)
    for own in truncated:
        np.testing.assert_allclose(own, whole, rtol=1e-10)
    assert loss.shape == (64,)


def test_a_head_is_initialised_on_what_its_part_puts_out(small_images, eager):
    flow = small_glow(perturbed=False, parts="by_block:2", **HEAD)
    trainer = PartsTrainer(flow)
    flow.initialize(small_images)
    assert (flow.initialized, trainer.initialized) == (True, False)
    trainer.initialize(small_images)
    assert trainer.initialized
    h = flow.enter(small_images, None, flow.config.seed).h
    (head,) = heads_of(trainer)
    h, _ = head.bijectors[0].forward_and_log_det(flow.parts[0].call(h).h)  # its squeeze
    with copy_of(head.bijectors[1], 0) as step:
        normed, _ = step.actnorm.forward_and_log_det(h)
    np.testing.assert_allclose(tf.reduce_mean(normed, [0, 1, 2]), np.zeros(h.shape[-1]), atol=1e-4)
    np.testing.assert_allclose(tf.math.reduce_std(normed, [0, 1, 2]), np.ones(h.shape[-1]), atol=1e-2)


# Where it runs


ALL_PHASES = [*(one_part(k) for k in range(3)), simultaneous(3), end_to_end(3)]


@pytest.fixture(scope="module")
def of_three():
    """For a test that changes nothing."""
    return make_trainer()


@pytest.mark.parametrize("phase", ALL_PHASES, ids=str)
def test_a_head_runs_and_gets_gradients_only_where_its_part_is_trained(
    phase, of_three, small_images, monkeypatch
):
    trainer, ran = of_three, []
    for k, head in enumerate(heads_of(trainer)):
        call = head.call
        monkeypatch.setattr(head, "call", lambda *a, k=k, call=call: ran.append(k) or call(*a))
    heads = [v for head in heads_of(trainer) for v in head.trainable_variables]
    with tf.GradientTape() as tape:
        losses, _ = objectives(trainer, tf.constant(small_images), phase)
    trained = [] if phase.end_to_end else [k for k in phase.active if k < 2]
    assert ran == trained
    owners = [k for k, head in enumerate(heads_of(trainer)) for _ in head.trainable_variables]
    for k, gradient in zip(owners, tape.gradient(losses, [v.value for v in heads]), strict=True):
        assert (gradient is not None) == (k in trained)
    scored = {*trained, 2} & set(range(phase.last + 1))
    reported = {own.name for own in trainer.logs.means.of(phase) if own.name.startswith("local_bpd_")}
    assert reported == {f"local_bpd_{k + 1}" for k in scored}
    in_phase = {id(v) for group in trainer.forward_pass.trained_variables(phase) for v in group}
    assert [k for k, v in zip(owners, heads, strict=True) if id(v) in in_phase] == [
        k for k in owners if k in trained
    ]


@pytest.mark.long
def test_the_model_and_the_test_bpd_do_not_know_of_heads(small_images, monkeypatch, eager):
    small = {"flow_steps": 1, "parts": "by_block:2"}
    with_heads, plain = small_glow(**HEAD, **small), small_glow(**small)
    for a, b in zip(with_heads.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    def refuse(view):
        raise AssertionError("the head ran")

    found = []
    for flow in (with_heads, plain):
        trainer = PartsTrainer(flow)
        monkeypatch.setattr(trainer.local_objectives[0], "losses", refuse)
        trainer.compile("adamax")
        found.append(trainer.evaluate(small_images, verbose=0, return_dict=True)["bpd"])
    assert found[0] == found[1]


# Training


@pytest.mark.slow
def test_a_run_with_heads_resumes_to_the_same_numbers(tmp_path):
    settings = {**FAST, **HEAD, "rate_schedule": "constant", "schedule": "simultaneous", "finetune_epochs": 0}
    train(config(tmp_path / "whole", **settings, part_epochs=2))
    train(config(tmp_path / "cut", **settings, part_epochs=1))
    train(config(tmp_path / "cut", **settings, part_epochs=2))
    columns = ("local_bpd_1", "local_bpd_2", "test_bpd")
    whole, cut = rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut")
    assert [[row[c] for c in columns] for row in whole] == [[row[c] for c in columns] for row in cut]


def test_heads_are_saved_and_loaded_with_their_trainer(tmp_path, small_images, eager):
    trainer = make_trainer(flow_steps=1, parts="by_block:2")
    trainer.fit(small_images[:32], batch_size=16, epochs=1, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    loaded, images = keras.saving.load_model(tmp_path / "trainer.keras"), tf.constant(small_images)
    assert loaded.initialized
    losses = [objectives(own, images, simultaneous(2))[0] for own in (trainer, loaded)]
    np.testing.assert_array_equal(*losses)
    flow = glow_tf.load(tmp_path / "trainer.keras")  # the model alone
    np.testing.assert_array_equal(flow.log_prob(small_images, 0), trainer.flow.log_prob(small_images, 0))
