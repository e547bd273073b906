"""The rates of the weights follow the size of the model."""

import numpy as np
from small import small_glow, weight_of

from glow_tf import PartsTrainer
from glow_tf.bijectors.rate_factor import rate_factor
from glow_tf.training import ScaledSGD

FLOW = ("actnorm_bias", "actnorm_log_scale", "conv_lower", "conv_upper", "conv_raw_log_scale")


def factors(width, flow_steps):
    flow = small_glow(perturbed=False, num_blocks=1, flow_steps=flow_steps, width=width, parts="1")
    steps = "block_1_flow_steps"
    return {
        v.path.split(f"{steps}/")[-1]: rate_factor(v, flow_steps)
        for v in flow.trainable_variables
        if steps in v.path
    }


def test_only_sums_over_the_width_are_divided_by_it():
    narrow, wide = factors(16, 6), factors(64, 6)
    fallen = {name for name in narrow if wide[name] == narrow[name] / 4}
    assert fallen == {"coupling_network_hidden_2_kernel", "coupling_network_last_kernel"}
    assert all(wide[name] == narrow[name] for name in set(narrow) - fallen)


def test_what_acts_on_the_flow_is_divided_by_the_number_of_flow_steps():
    shallow, deep = factors(16, 3), factors(16, 12)
    fallen = {name for name in shallow if deep[name] == shallow[name] / 4}
    last = {f"coupling_network_last_{name}" for name in ("kernel", "bias", "log_scale")}
    assert fallen == {*FLOW, *last}
    assert all(deep[name] == shallow[name] for name in set(shallow) - fallen)


def test_priors_and_permutations_keep_their_rate():
    flow = small_glow(perturbed=False, permutation="plain", split_prior="learned", coupling="additive")
    for part in flow.parts:
        assert [rate_factor(v, 4) for v in part.base.trainable_variables] == [1.0] * len(
            part.base.trainable_variables
        )
    assert rate_factor(weight_of(flow.parts[0], "block_1_flow_steps/conv_kernel"), 4) == 3 / 4


def test_a_rescaled_rate_is_the_rate_times_the_factor(small_images):
    """Of a plain Keras optimizer: SGD moves each weight by rate · factor · gradient."""

    def moved(rate_scaling):
        flow = small_glow(num_blocks=1, parts="1", width=64)
        flow.initialize(small_images)
        before = [v.numpy() for v in flow.trainable_variables]
        trainer = PartsTrainer(flow, seed=0)
        trainer.compile([ScaledSGD(1e-3)], rate_scaling=rate_scaling, run_eagerly=True)
        trainer.fit(small_images, batch_size=64, verbose=0)
        return flow, [v.numpy() - b for v, b in zip(flow.trainable_variables, before, strict=True)]

    flow, scaled = moved("size")
    _, plain = moved("none")
    assert any(np.abs(change).max() > 1e-4 for change in plain)
    for variable, a, b in zip(flow.trainable_variables, scaled, plain, strict=True):
        np.testing.assert_allclose(a, rate_factor(variable, 2) * b, rtol=2e-2, atol=2e-6)
