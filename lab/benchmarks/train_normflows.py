r"""Trains the same Glow in normflows (PyTorch), to compare likelihoods and learning.

    python -m lab.benchmarks.train_normflows --flagfile=cifar10_small_before --scale=sigmoid --data_dir=PATH

The flags are those of `glow-tf train`. Data, noise, batches, optimizer, rates and epochs come from glow_tf;
model, likelihood and gradients from normflows. So a likelihood that is off by a constant would show. It
writes history.csv and summary.json as `glow-tf train` does, and no other files. An interrupted run starts
again. Settings that normflows lacks are refused, but for `split_prior`. Needs `pip install -e '.[lab]'`, and
then `pip uninstall triton`: with PyTorch 2.15 and TensorFlow 2.21 in one process, its LLVM ends the process.
"""

# TensorFlow and PyTorch are imported inside functions, after the runner has set TensorFlow's log level.
from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf.architectures.schedule import phases_of
from glow_tf.commands import cli
from glow_tf.commands import train as train_command
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.run.settings import Decided, likely
from glow_tf.run.workdir import Workdir

if TYPE_CHECKING:
    import tensorflow as tf
    import torch

    from glow_tf.data import ImageData

# What normflows' Glow is, in the terms of glow_tf's settings. (Its split priors are unconditional, whatever
# `split_prior` says.)
MODEL = {
    "coupling": "affine",
    "scale": "sigmoid",
    "permutation": "lu",
    "precision": "float32",
    "parts": "1",
    "n_bits": 8,
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of a run."""
    train_command.define(values)


def main(values: flags.FlagValues) -> None:
    """Trains as the flags say."""
    config = likely(train_command.asked(values)).config
    needed = [
        (config, {"init_from": ""}),
        (config.model, MODEL),
        (config.train, {"optimizer": "adamax", "rate_scaling": "none", "ema": 0}),
        (config.data, {"augment": "none"}),
    ]
    for settings, required in needed:
        for name, value in required.items():
            if getattr(settings, name) != value:
                raise ConfigError(
                    f"{name} must be {value} for normflows. Received: {name}={getattr(settings, name)!r}"
                )
    try:
        import normflows  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"normflows comes with pip install -e '.[lab]'. Received: {error}") from None
    workdir = Workdir(config)
    try:
        _train(config, workdir)
    finally:
        workdir.close()


def _train(config: RunConfig, workdir: Workdir) -> None:
    from glow_tf import data

    images = data.load(config.data)
    workdir.claim(Decided(config, {}))
    training = Training(config, images)
    num_epochs = len(phases_of(config))
    rows, total = [], 0.0
    for epoch in range(1, num_epochs + 1):
        start = time.perf_counter()
        losses = training.epoch()
        seconds = time.perf_counter() - start
        total += seconds
        row = {"epoch": str(epoch), "seconds": f"{seconds:.3f}", "total_seconds": f"{total:.3f}"}
        row["images_per_second"] = f"{len(losses) * config.train.batch_size / seconds:.3f}"
        rows.append(row | _results(losses, images, training.per_image))
        workdir.write_history(rows)
        train_bpd, test_bpd = float(np.mean(losses)), rows[-1]["test_bpd"]
        print(f"epoch {epoch}/{num_epochs} · train {train_bpd:.4f} · test {test_bpd}", flush=True)
    parameters = sum(p.numel() for p in training.model.parameters())
    workdir.write_summary(
        {"test_bpd": float(rows[-1]["test_bpd"]), "parameters": parameters, "epochs": num_epochs}
    )


def normflows_glow(config: ModelConfig, net_actnorm: bool):
    """Returns normflows' Glow of the configured blocks, steps and width: affine with sigmoid scales, LU.

    Args:
      config: of the model.
      net_actnorm: whether the coupling networks have ActNorms; by default in normflows they have none.
    """
    import normflows as nf

    size, channels = config.image_shape[0], config.image_shape[2]
    bases, flows, merges = [], [], []
    # normflows lists blocks from the latent's side.
    for block in range(config.num_blocks, 0, -1):
        width = channels * 2 ** (block + 1)
        steps = [
            nf.flows.GlowBlock(width, config.width, split_mode="channel", net_actnorm=net_actnorm)
            for _ in range(config.flow_steps)
        ]
        flows.append([*steps, nf.flows.Squeeze()])
        last = block == config.num_blocks
        if not last:
            merges.append(nf.flows.Merge())
        side = size // 2**block
        bases.append(nf.distributions.GlowBase((width if last else width // 2, side, side)))
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)


class Training:
    """normflows' model, with the batches, optimizer and rates of glow_tf.

    Args:
      config: the run.
      images: the data.
    """

    def __init__(self, config: RunConfig, images: ImageData):
        import torch

        from glow_tf import data
        from glow_tf.training.optimizers import second_moment_decay
        from glow_tf.training.recipe import part_rates

        train = config.train
        torch.manual_seed(config.seed)
        self.config = config
        model = dataclasses.replace(config.model, image_shape=images.image_shape)
        self.model = normflows_glow(model, net_actnorm=model.norm == "actnorm")
        self.dimensions = math.prod(images.image_shape)
        self.steps = data.steps_per_epoch(len(images.train), train.batch_size)
        self.batches = iter(data.training_batches(images.train, train.batch_size, config.seed))
        (self.rate,) = part_rates(train, phases_of(config), 1)
        self.rate.count_steps(self.steps)
        betas = (0.9, second_moment_decay(train.beta_2, self.steps))
        # Keras's epsilon
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=1.0, betas=betas, eps=1e-7)
        self.step = 0

    def bits_per_dim(self, pixels: tf.Tensor, noise: tf.Tensor) -> torch.Tensor:
        """Returns bits/dim of images [B, H, W, C] with their dequantisation noise: [B]."""
        import torch

        x = (pixels.numpy().astype(np.float32) + noise.numpy()) / 256 - 0.5
        nats = -self.model.log_prob(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), None)
        return (nats / self.dimensions + math.log(256)) / math.log(2)

    def epoch(self) -> list[float]:
        """Trains for an epoch; returns the loss of every step in bits/dim."""
        import torch

        losses = []
        for _ in range(self.steps):
            batch = next(self.batches)
            pixels, noise = batch["images"], batch["noise"]
            if self.step == 0:
                with torch.no_grad():
                    self.bits_per_dim(pixels, noise)  # initialises normflows' ActNorms
            for group in self.optimizer.param_groups:
                group["lr"] = float(self.rate(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.bits_per_dim(pixels, noise).mean()
            loss.backward()
            if self.config.train.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
            self.optimizer.step()
            losses.append(loss.item())
            self.step += 1
        return losses

    def per_image(self, images: np.ndarray) -> np.ndarray:
        """Returns bits/dim of images [N, H, W, C]: [N]."""
        import torch

        from glow_tf import data

        batches = data.evaluation_batches(images, self.config.train.batch_size, self.config.seed)
        with torch.no_grad():
            found = [
                self.bits_per_dim(batch["images"], batch["noise"])[batch["weight"].numpy() > 0]
                for batch in batches
            ]
        return torch.cat(found).double().numpy()


def _results(
    losses: list[float], images: ImageData, per_image: Callable[[np.ndarray], np.ndarray]
) -> dict[str, str]:
    """Returns the columns of history.csv that say what an epoch learned."""
    from glow_tf.run.callbacks import peak_memory_mb
    from glow_tf.use.evaluation import mean_and_error

    start = time.perf_counter()
    found = {"test": mean_and_error(per_image(images.test))}
    if len(images.validation):
        found["validation"] = mean_and_error(per_image(images.validation))
    train_bpd = f"{np.mean(losses):.6f}"
    row = {
        "phase": "end_to_end",
        "active_parts": "1",
        "eval_seconds": f"{time.perf_counter() - start:.3f}",
        "peak_memory_mb": f"{peak_memory_mb():.0f}",
        "train_bpd": train_bpd,
        "local_bpd_1": train_bpd,
    }
    for name, (mean, error) in found.items():
        row[f"{name}_bpd"], row[f"{name}_bpd_se"] = f"{mean:.6f}", f"{error:.6f}"
    return row


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
