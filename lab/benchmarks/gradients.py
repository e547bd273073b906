"""Does a part's own objective pull where end-to-end training would? And how noisy are the gradients?

    python train/main.py --flagfile=… --schedule=simultaneous --finetune_epochs=0 --workdir=runs/heads
    python -m lab.benchmarks.gradients --workdirs=runs/heads,runs/gaussians --csv=gradients.csv

For each part of each trained run, over the run's training images:

- agreement: the cosine between the gradients of the part's own objective and of the end-to-end loss, both
  with respect to the part's flow, both of the mean over all images. The last part's is 1: it has one
  objective.
- noise scale: tr Σ / |G|² in images (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1) of the part's
  own objective, and of the end-to-end loss. Batches far above it average noise that is not there.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf
from absl import flags

import glow_tf
from glow_tf import Phase, data
from glow_tf.architectures.schedule import end_to_end, simultaneous
from glow_tf.commands import cli
from glow_tf.run.flags_file import read_config
from glow_tf.training import PartsTrainer
from glow_tf.training.batch import entering
from lab.benchmarks.rows import added_to

COLUMNS = ("run", "part", "local_prior", "agreement", "noise_scale", "end_to_end_noise_scale", "images")
BATCH = 32


def batch_gradients(trainer: PartsTrainer, phase: Phase, images: np.ndarray) -> list[np.ndarray]:
    """Returns the gradients of a phase's loss in bits/dim, for each part [batches, weights of its flow]."""
    flows = [[v.value for v in part.flow_variables] for part in trainer.flow.parts]

    @tf.function(autograph=False, jit_compile=False)
    def gradients(batch: tf.Tensor, noise: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(flows)
            passage = entering(trainer.flow, {"images": batch, "noise": noise})
            losses, *_ = trainer.forward_pass.evaluate(passage, phase)
            loss = tf.reduce_mean(losses)
        found = tape.gradient(loss, flows, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.concat([tf.reshape(g, [-1]) for g in own], 0) for own in found]

    rng = np.random.default_rng(0)
    batches = np.split(images[: len(images) // BATCH * BATCH], len(images) // BATCH)
    rows = [[g.numpy() for g in gradients(b, rng.uniform(size=b.shape).astype("f4"))] for b in batches]
    return [np.stack(own) for own in zip(*rows, strict=True)]


def noise_scale(gradients: np.ndarray) -> float:
    """Returns tr Σ / |G|² in images, from gradients of batches [batches, weights]; inf: nothing but noise."""
    small, large = np.mean(np.sum(np.square(gradients), axis=1)), np.sum(np.square(gradients.mean(axis=0)))
    images = BATCH * len(gradients)
    trace = (small - large) / (1 / BATCH - 1 / images)
    signal = images * large - BATCH * small
    return float(trace * (images - BATCH) / signal) if signal > 0 else np.inf


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the cosine between the means of two sets of gradients, each [batches, weights]."""
    one, other = one.mean(axis=0), other.mean(axis=0)
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def measured(workdir: pathlib.Path) -> list[dict[str, object]]:
    """Returns a row for each part of a run."""
    trainer, config = glow_tf.load_trainer(workdir), read_config(workdir)
    images = data.load(config.data).train
    count = len(trainer.flow.parts)
    own = batch_gradients(trainer, simultaneous(count), images)
    whole = batch_gradients(trainer, end_to_end(count), images)
    return [
        {
            "run": "/".join(workdir.parts[-2:]),
            "part": k + 1,
            "local_prior": config.model.local_prior if k + 1 < count else "the model's own",
            "agreement": f"{agreement(own[k], whole[k]):.4f}",
            "noise_scale": f"{noise_scale(own[k]):.3f}",
            "end_to_end_noise_scale": f"{noise_scale(whole[k]):.3f}",
            "images": len(images),
        }
        for k in range(count)
    ]


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("workdirs", [], "Of finished runs, comma-separated.", flag_values=values)
    flags.DEFINE_string("csv", "gradients.csv", "To add to.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Measures runs, prints a row for each part and writes them as CSV."""
    with added_to(values.csv, COLUMNS) as add:
        for workdir in values.workdirs:
            for row in measured(pathlib.Path(workdir)):
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                add(row)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
