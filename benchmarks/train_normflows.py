"""Trains the same Glow in normflows: `python train/baseline_normflows.py --flagfile=… [--flag=value …]`.

The flags are those of main.py. Data, noise, batches, optimizer, rates and epochs are this project's; model,
likelihood and gradients are normflows' (PyTorch). So a likelihood that is off by a constant would show.
Leaves history.csv and summary.json as main.py does, and nothing else; what is cut off starts again. Model
settings that normflows lacks are refused. Needs `pip install -e .[bench]`.
"""

import math
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flags_of_run
import numpy as np
import tensorflow as tf
from absl import app, flags

from glow_tf import ConfigError, RunConfig, data
from glow_tf.callbacks import peak_memory_mb
from glow_tf.optimizers import part_rates, second_moment_decay
from glow_tf.workdir import Workdir

flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)

# What normflows' Glow is, in this project's terms.
MODEL = {
    "coupling": "affine",
    "scale": "sigmoid",
    "permutation": "lu",
    "precision": "float32",
    "parts": "1",
    "n_bits": 8,
}


def main(argv: list[str]) -> int:
    """Trains, and returns the exit status."""
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        config = flags_of_run.run_config()
        for name, value in MODEL.items():
            if getattr(config.model, name) != value:
                raise ConfigError(
                    f"{name} must be {value} for normflows. Received: {name}={getattr(config.model, name)}"
                )
        for settings, needed in ((config.train, ("optimizer", "adamax")), (config.data, ("augment", "none"))):
            name, value = needed
            if getattr(settings, name) != value:
                raise ConfigError(f"{name} must be {value} here. Received: {getattr(settings, name)!r}")
        workdir = Workdir(config)
        try:
            _train(config, workdir)
        finally:
            workdir.close()
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _train(config: RunConfig, workdir: Workdir) -> None:
    try:
        import torch
        from benchmark_peers import normflows_glow
    except ImportError as error:
        raise ConfigError(f"normflows comes with pip install -e .[bench]. Received: {error}") from None
    images = data.load(config.data)
    workdir.claim()
    torch.manual_seed(config.seed)
    model = normflows_glow(config.model, net_actnorm=config.model.norm == "actnorm")
    phases, train = config.phases(), config.train
    steps = data.steps_per_epoch(len(images.train), train.batch_size)
    (rate,) = part_rates(train, phases, 1, steps)
    betas = (0.9, second_moment_decay(train, steps))
    optimizer = torch.optim.Adamax(model.parameters(), lr=1.0, betas=betas, eps=1e-7)  # Keras's defaults
    dimensions = math.prod(images.image_shape)

    def bits_per_dim(pixels: tf.Tensor, noise: tf.Tensor) -> "torch.Tensor":
        x = (pixels.numpy().astype(np.float32) + noise.numpy()) / 256 - 0.5
        nats = -model.log_prob(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), None)
        return (nats / dimensions + math.log(256)) / math.log(2)

    def evaluate(held_out: np.ndarray) -> tuple[float, float]:
        with torch.no_grad():
            found = [
                bits_per_dim(pixels, noise)[weight.numpy() > 0]
                for pixels, noise, weight in data.evaluation_batches(held_out, train.batch_size, config.seed)
            ]
        bpd = torch.cat(found).double().numpy()
        return float(bpd.mean()), float(bpd.std(ddof=1) / math.sqrt(len(bpd)))

    batches = iter(data.training_batches(images.train, train.batch_size, config.seed))
    rows, total, step = [], 0.0, 0
    for epoch in range(1, len(phases) + 1):
        start, losses = time.perf_counter(), []
        for _ in range(steps):
            pixels, noise, _ = next(batches)
            if step == 0:
                with torch.no_grad():
                    bits_per_dim(pixels, noise)  # initialises its ActNorms
            for group in optimizer.param_groups:
                group["lr"] = float(rate(step))
            optimizer.zero_grad(set_to_none=True)
            loss = bits_per_dim(pixels, noise).mean()
            loss.backward()
            if train.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        seconds = time.perf_counter() - start
        total += seconds
        rows.append(_row(epoch, seconds, total, losses, train.batch_size, images, evaluate))
        workdir.write_history(rows)
        print(
            f"epoch {epoch}/{len(phases)} · train {np.mean(losses):.4f} · test {rows[-1]['test_bpd']}",
            flush=True,
        )
    parameters = sum(p.numel() for p in model.parameters())
    workdir.write_summary({"test_bpd": float(rows[-1]["test_bpd"]), "parameters": parameters})


def _row(
    epoch: int,
    seconds: float,
    total: float,
    losses: list[float],
    batch_size: int,
    images: data.ImageData,
    evaluate: Callable[[np.ndarray], tuple[float, float]],
) -> dict[str, str]:
    start = time.perf_counter()
    found = {"test": evaluate(images.test)}
    if len(images.validation):
        found["validation"] = evaluate(images.validation)
    train_bpd = f"{np.mean(losses):.6f}"
    row = {
        "epoch": str(epoch),
        "phase": "end_to_end",
        "active_parts": "1",
        "seconds": f"{seconds:.3f}",
        "total_seconds": f"{total:.3f}",
        "eval_seconds": f"{time.perf_counter() - start:.3f}",
        "images_per_second": f"{len(losses) * batch_size / seconds:.3f}",
        "peak_memory_mb": f"{peak_memory_mb():.0f}",
        "train_bpd": train_bpd,
        "local_bpd_1": train_bpd,
    }
    for name, (mean, error) in found.items():
        row[f"{name}_bpd"], row[f"{name}_bpd_se"] = f"{mean:.6f}", f"{error:.6f}"
    return row


if __name__ == "__main__":
    app.run(main)
