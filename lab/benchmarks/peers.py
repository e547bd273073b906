"""The same Glow in other libraries, for steps.py: normflows and tfp.bijectors.Glow."""

import math
import warnings
from collections.abc import Callable

import numpy as np

from glow_tf.config import ModelConfig
from lab.benchmarks.train_normflows import normflows_glow
from lab.planning.calibrate import Timed, repeated


def timed_peers(config: ModelConfig, images: np.ndarray) -> list[Timed]:
    """Returns training step, scoring and sampling of every library that is installed, in float32."""
    found = []
    for name, make in (("normflows", _normflows), ("tfp.bijectors.Glow", _tfp)):
        try:
            runs = make(config, images)
        except ImportError as error:
            print(f"{name} is left out: {error}. `pip install -e '.[lab]'` installs it.")
            continue
        found += [Timed(f"{name}: {what}", "float32", repeated(run)) for what, run in runs.items()]
    return found


def _normflows(config: ModelConfig, images: np.ndarray) -> dict[str, Callable[[], object]]:
    import torch

    model = normflows_glow(config, net_actnorm=False)  # the leaner of the two
    x = torch.tensor(images).permute(0, 3, 1, 2).float().contiguous() / 256 - 0.5
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within it
        model.log_prob(x, None)  # initialises its ActNorms
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-8)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = model.forward_kld(x)
        loss.backward()
        optimizer.step()

    def without_gradient(run: Callable) -> Callable:
        def inner() -> object:
            with torch.no_grad():
                return run()

        return inner

    return {
        "step": step,
        "log_prob": without_gradient(lambda: model.log_prob(x, None)),
        "sample": without_gradient(lambda: model.sample(len(x))),
    }


def _tfp(config: ModelConfig, images: np.ndarray) -> dict[str, Callable[[], object]]:
    import tensorflow as tf
    import tensorflow_probability as tfp

    tfb, tfd = tfp.bijectors, tfp.distributions
    glow = tfb.Glow(
        output_shape=config.image_shape,
        num_glow_blocks=config.num_blocks,
        num_steps_per_block=config.flow_steps,
        coupling_bijector_fn=lambda shape: tfb.GlowDefaultNetwork(shape, num_hidden=config.width),
        exit_bijector_fn=tfb.GlowDefaultExitNetwork,
    )
    base = tfd.Sample(tfd.Normal(0.0, 1.0), math.prod(config.image_shape))
    model = tfd.TransformedDistribution(base, glow)
    x = tf.constant(images / 256 - 0.5, tf.float32)
    model.log_prob(x)  # builds it, and initialises its ActNorms
    variables = glow.trainable_variables

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(x))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            if gradient is not None:
                variable.assign_sub(1e-12 * gradient)

    log_prob = tf.function(lambda: model.log_prob(x), autograph=False)
    sample = tf.function(lambda: model.sample(len(images), seed=[0, 1]), autograph=False)
    return {"step (plain SGD)": step, "log_prob": log_prob, "sample": sample}
