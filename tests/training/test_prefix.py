"""A cached prefix trains the same part on the same numbers."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config
from small import fit_phases, small_glow

from glow_tf import ConfigError, PartsTrainer, RunConfig, data
from glow_tf.architectures import design_of
from glow_tf.architectures.partition import relative_cost
from glow_tf.architectures.schedule import (
    cache_noise_epochs,
    cached_parts,
    epoch_costs,
    one_part,
    phases,
    phases_of,
    turn_starts,
)
from glow_tf.config import ModelConfig
from glow_tf.run import context
from glow_tf.run.callbacks import FillPrefixCaches
from glow_tf.run.epoch import EpochResult
from glow_tf.training import FusedAdamax
from glow_tf.training.prefix import PrefixCache, cache_bytes

ALTERNATING = phases("alternating", 3, 7, 1, period=2)  # 1 1 2 2 3 3 1, end to end
TURNS = turn_starts(ALTERNATING)


def train(images, cached):
    sequential = phases("sequential", 2, 4)
    turns = turn_starts(sequential)
    flow = small_glow(parts="across_block:2", flow_steps=2, perturbed=False)
    trainer = PartsTrainer(flow, seed=3)
    trainer.compile([FusedAdamax(5e-3) for _ in flow.parts], phases=sequential)
    first = tf.Variable(0, dtype=tf.int64)
    epochs = data.Epochs(first, turns)
    batches = data.training_batches(images, 16, 3, augment="flip_shift", epochs=epochs)
    steps = data.steps_per_epoch(len(images), 16)
    move = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: first.assign((epoch + 1) * steps))
    if cached:
        trainer.prefix_caches = {sequential[-1]: PrefixCache(flow, 1, len(images))}
    run = types.SimpleNamespace(
        cache_noise_epochs=turns,
        prefix_batches=lambda epoch: data.prefix_batches(images, 16, 3, epoch, augment="flip_shift"),
    )
    fill = FillPrefixCaches(run, EpochResult())
    history = fit_phases(trainer, batches, steps_per_epoch=steps, callbacks=[fill, move])
    return flow.get_weights(), history


@pytest.mark.slow
def test_training_from_the_cache_is_training_on_the_same_noise(small_images):
    images = small_images[:60]  # the last examples fill no batch
    plain, plain_history = train(images, cached=False)
    cached, history = train(images, cached=True)
    for a, b in zip(plain, cached, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in ("bpd", "local_bpd_1", "local_bpd_2"):
        np.testing.assert_allclose(history[name], plain_history[name], rtol=1e-4)


def test_a_turn_keeps_noise_and_augmentation_and_changes_the_order(small_images):
    batches = data.training_batches(small_images, 64, 1, augment="flip", epochs=data.Epochs(noise=[0, 0, 2]))
    iterator = iter(batches)
    epochs = []
    for _ in range(3):
        batch = next(iterator)
        images, noise, index = (batch[name].numpy() for name in ("images", "noise", "index"))
        epochs.append((index, images[np.argsort(index)], noise[np.argsort(index)]))
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    np.testing.assert_array_equal(epochs[0][1], epochs[1][1])
    np.testing.assert_array_equal(epochs[0][2], epochs[1][2])
    assert not np.array_equal(epochs[0][2], epochs[2][2])


def test_the_pass_that_fills_the_cache_sees_what_the_epoch_does(small_images):
    images = small_images[:50]
    stream = iter(data.training_batches(images, 50, 1, augment="flip_shift"))
    next(stream)
    seen = next(stream)
    order = np.argsort(seen["index"])
    batches = list(data.prefix_batches(images, 16, 1, 1, augment="flip_shift"))
    for name, own in seen.items():
        filled = np.concatenate([batch[name] for batch in batches])[:50]
        np.testing.assert_array_equal(own.numpy()[order], filled)


def test_later_parts_with_a_turn_of_several_epochs_are_cached():
    assert TURNS == [0, 0, 2, 2, 4, 4, 6, 7]
    assert cached_parts(ALTERNATING) == [1, 2]
    assert cached_parts(phases("alternating", 2, 7, 1, period=2)) == [1]  # its last turn has one epoch
    assert cached_parts(phases("alternating", 3, 6, 1)) == []
    assert cached_parts(phases("sequential", 3, 5)) == [1]


def test_a_cached_turn_pays_for_its_prefix_once():
    layouts = design_of(ModelConfig(flow_steps=4, width=64, parts="across_block:3")).layouts
    shares = [p.forward_macs / sum(q.forward_macs for q in layouts) for p in layouts]
    costs = epoch_costs(layouts, ALTERNATING, cache_prefix=True)
    assert costs[2] == pytest.approx(shares[0] / 3 + shares[1])
    assert costs[4] == pytest.approx(shares[1] / 3 + shares[2])  # part 2's cache has what part 1 puts out
    assert costs[5] == pytest.approx(shares[2])
    assert epoch_costs(layouts, ALTERNATING)[5] == relative_cost(layouts, [2])
    short = phases("sequential", 3, 5)  # 1 1 2 2 3: the last turn is too short for a cache
    assert epoch_costs(layouts, short, cache_prefix=True)[4] == relative_cost(layouts, [2])


@pytest.mark.long
def test_a_cache_is_filled_with_what_parts_make_of_their_condition(small_images, rng, eager):
    """Both caches: part 2 reads the condition, too, on what part 1 has made."""
    images, given = small_images[:20], rng.normal(size=(20, 3)).astype(np.float32)
    flow = small_glow(parts="across_block:3", flow_steps=2, condition_shape=(3,), condition_features=2)

    def batches(epoch):
        batches = data.prefix_batches(images, 16, 3, epoch)
        return data.with_members(batches, {"condition": given}, len(images))

    cache = PrefixCache(flow, 2, len(images), PrefixCache(flow, 1, len(images)))
    cache.fill(batches, 0)
    for own in batches(0):
        entered = flow.enter(own["images"], own["noise"])._replace(condition=own["condition"])
        expected, found = flow.through_parts(entered, stop=2), cache.passage(own["index"])
        np.testing.assert_allclose(found.h, expected.h, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-5)


@pytest.mark.long
def test_a_cache_is_made_of_the_one_before_with_its_noise(small_images, eager):
    images = small_images[:50]
    flow = small_glow(parts="across_block:3", flow_steps=2)
    assert cache_noise_epochs(ALTERNATING) == [0, 0, 2, 2, 2, 2, 6, 7]
    assert cache_noise_epochs([one_part(2)] * 2) == [0, 0]
    read = []

    def batches(epoch):
        read.append(epoch)
        return data.prefix_batches(images, 16, 3, epoch)

    before = PrefixCache(flow, 1, len(images))
    before.fill(batches, 2)
    for weight in flow.parts[1].weights:  # as a turn of part 2 does
        weight.assign(weight * 0.9)
    extended, alone = PrefixCache(flow, 2, len(images), before), PrefixCache(flow, 2, len(images))
    extended.fill(batches, 2)
    alone.fill(batches, 2)
    assert extended.fill(batches, 2) == 0.0
    for a, b in zip(extended.passage([7, 49])[:2], alone.passage([7, 49])[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    resumed = PrefixCache(flow, 2, len(images), PrefixCache(flow, 1, len(images)))
    read.clear()
    resumed.fill(batches, 2)
    assert read == [2, 2]
    for a, b in zip(
        resumed.passage([7, 49]).truncated_nlls, extended.passage([7, 49]).truncated_nlls, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for cache in (before, extended):
        cache.noise_epoch = None
    assert extended.fill(batches, 2) > 0


def test_a_cache_is_filled_anew_with_the_noise_of_another_turn(small_images):
    cache = PrefixCache(small_glow(flow_steps=1, parts="by_block:2"), 1, 4)
    asked, kept = [], []

    def batches_of(epoch):
        asked.append(epoch)
        return data.prefix_batches(small_images[:4], 4, 0, epoch)

    for epoch in (0, 0, 3):
        cache.fill(batches_of, epoch)
        kept.append(cache.passage(tf.range(4)).h.numpy())
    assert asked == [0, 3]
    np.testing.assert_array_equal(kept[0], kept[1])
    assert (kept[2] != kept[1]).any()


def test_a_cache_larger_than_memory_is_refused_with_what_helps(monkeypatch):
    monkeypatch.setattr("glow_tf.core.machine.free_memory", lambda: 1000)
    run = config("run", schedule="sequential", cache_prefix=True)
    trainer = types.SimpleNamespace(
        phases=phases_of(run), flow=types.SimpleNamespace(design=design_of(run.model))
    )
    with pytest.raises(ConfigError, match=r"before part 2 must fit .*; train without --cache_prefix"):
        context._make_caches(trainer, 50)


def test_the_predicted_size_is_the_caches():
    flow = small_glow(parts="across_block:3", flow_steps=2)
    caches = [PrefixCache(flow, k, 100) for k in (1, 2)]
    kept = [v for c in caches for v in tf.nest.flatten(c._kept) if v is not None]
    real = sum(v.shape.num_elements() * 4 for v in kept)
    assert cache_bytes(design_of(flow.config).layouts, [1, 2], 100) == real


def test_a_cache_that_would_never_be_used_is_refused():
    settings = {
        "workdir": "w",
        "dataset": "digits",
        "parts": "by_block:2",
        "flow_steps": 2,
        "cache_prefix": True,
    }
    for schedule, period in (("end_to_end", 4), ("simultaneous", 4), ("alternating", 1)):
        with pytest.raises(ConfigError, match=r"cache_prefix needs .*Received: cache_prefix=True, schedule="):
            phases_of(RunConfig.from_settings({**settings, "schedule": schedule, "period": period}))
    phases_of(RunConfig.from_settings({**settings, "schedule": "sequential"}))
    levels = {"architecture": "levels", "parts": "1", "num_blocks": 1, "schedule": "sequential"}
    with pytest.raises(ConfigError, match=r"levels run no part but .*Received: .*architecture='levels'"):
        phases_of(RunConfig.from_settings(settings | levels))
