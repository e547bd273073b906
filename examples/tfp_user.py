"""A Glow inside TensorFlow Probability: with which exposure were these photographs taken?

The script trains a small Glow on handwritten digits. It then looks at photographs of other digits. The camera
took all of them with one contrast and one brightness, and both are unknown. The Glow is the likelihood in a
joint distribution, and compiled Hamiltonian Monte Carlo samples the contrast and the brightness.

    python examples/tfp_user.py

It takes about ten seconds on two cores and downloads nothing.
"""

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf import data

tfb, tfd = tfp.bijectors, tfp.distributions

PHOTOGRAPHS = 12
CHAINS = 4
TRUE_CONTRAST, TRUE_BRIGHTNESS = 1.3, 2.0

# 1. Train a Glow with Keras.
images = data.load(glow_tf.DataConfig(dataset="digits"))  # uint8 [N, 8, 8, 1]
model = glow_tf.ModelConfig(
    image_shape=images.image_shape, n_bits=5, num_blocks=2, flow_steps=2, width=16, parts="across_block:2"
)
flow = glow_tf.Flow(model)
trainer = glow_tf.PartsTrainer(flow, seed=0)
trainer.compile(
    glow_tf.TrainConfig(
        schedule="simultaneous", part_epochs=4, finetune_epochs=0, warmup_steps=20, batch_size=64
    )
)
trainer.fit(images.train, verbose=0)

# 2. See it as a TFP distribution. Its values are dequantised: the level of each byte plus noise in [0, 1).
density = glow_tf.as_distribution(flow)
values = flow.dequantized(images.test, seed=1)
log_prob = tf.function(density.log_prob, input_signature=[tf.TensorSpec((None, *flow.image_shape))])
print(f"dtype {density.dtype.name}, event shape {density.event_shape}, batch shape {density.batch_shape}")
print(f"mean log_prob of the test digits: {tf.reduce_mean(log_prob(values)):.1f} nats")
print(f"the same by the flow itself:      {tf.reduce_mean(flow.log_prob(images.test, seed=1)):.1f} nats")


# 3. Compose it with other bijectors and distributions. A photograph is contrast · digit + brightness.
def photographs(log_contrast: tf.Tensor, brightness: tf.Tensor) -> tfd.Distribution:
    """Returns the density of all photographs, [PHOTOGRAPHS, 8, 8, 1], for each chain's exposure, [chains]."""
    log_contrast, brightness = (
        parameter[..., tf.newaxis, tf.newaxis, tf.newaxis] for parameter in (log_contrast, brightness)
    )
    exposure = tfb.Chain(
        [tfb.Shift(brightness), tfb.Scale(log_scale=log_contrast)]
    )  # the last one runs first
    return tfd.Sample(tfd.TransformedDistribution(density, exposure), PHOTOGRAPHS)


joint = tfd.JointDistributionNamed(
    {"log_contrast": tfd.Normal(0.0, 0.3), "brightness": tfd.Normal(0.0, 3.0), "photographs": photographs}
)
observed = TRUE_CONTRAST * values[:PHOTOGRAPHS] + TRUE_BRIGHTNESS


# 4. Sample what is unknown. The gradients go through the Glow; the chains are a batch dimension.
def target_log_prob(log_contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
    """Returns the log-density of the joint distribution at the observed photographs: [chains], nats."""
    return joint.log_prob(log_contrast=log_contrast, brightness=brightness, photographs=observed)


@tf.function(autograph=False)  # jit_compile=True works too; it takes longer to compile
def run_chains() -> tuple[list[tf.Tensor], tf.Tensor]:
    """Returns the chains of log_contrast and of brightness, and which steps were accepted."""
    step_size = [0.01, 0.05]  # one per unknown
    kernel = tfp.mcmc.HamiltonianMonteCarlo(target_log_prob, step_size=step_size, num_leapfrog_steps=3)
    kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(kernel, num_adaptation_steps=80)
    return tfp.mcmc.sample_chain(
        num_results=100,
        num_burnin_steps=100,
        current_state=[tf.zeros(CHAINS), tf.zeros(CHAINS)],
        kernel=kernel,
        trace_fn=lambda state, results: results.inner_results.is_accepted,
        seed=(0, 1),
    )


(log_contrast, brightness), accepted = run_chains()  # each [100, CHAINS]
print(f"accepted {tf.reduce_mean(tf.cast(accepted, tf.float32)):.0%} of the steps")
for name, chain, true in (
    ("contrast", tf.exp(log_contrast), TRUE_CONTRAST),
    ("brightness", brightness, TRUE_BRIGHTNESS),
):
    mean, deviation = tf.reduce_mean(chain), tf.math.reduce_std(chain)
    spread = tfp.mcmc.potential_scale_reduction(chain)  # 1 when the chains agree
    print(f"{name}: {mean:.2f} ± {deviation:.2f}, true {true:.2f}, R-hat {spread:.2f}")
