"""Poisons runs in every schedule, and compares their ends with those of runs that nothing happened to.

    python -m lab.benchmarks.poison --seeds=2

A poison comes once, before a step that the seed decides. `batch`: the noise of one batch overflows, or is a
hundred times too large; on two replicas, that of one image, which the second replica alone has. `gradient`:
the gradients of twelve steps are not a number, or a million times too large. `weight` and `slot`: a weight of
the last part that is trained, or its first moment, is not a number, or is far away. A run must end within
0.02 bits/dim of the undisturbed one, or stop.
"""

import contextlib
import csv
import io
import pathlib
import random
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.commands.run_flags import config_of
from glow_tf.config import SCHEDULES
from glow_tf.core.errors import DivergedError
from glow_tf.run import context, lifecycle
from glow_tf.training.step.update import Update
from lab.benchmarks.rows import added_to

RUN = (
    "--dataset=digits",
    "--n_bits=5",
    "--num_blocks=2",
    "--flow_steps=2",
    "--width=16",
    "--parts=by_block:2",
    "--part_epochs=12",
    "--finetune_epochs=4",
    "--tensorboard=false",
    "--sample_every=0",
    "--export=false",
    "--batch_size=16",
)
EPOCHS, STEPS, BATCH = 16, 89, 16
TARGETS = ("batch", "gradient", "weight", "slot")
KINDS = ("not finite", "finite")
WITHIN = 0.02  # bits/dim
COLUMNS = ("replicas", "schedule", "seed", "target", "kind", "epoch", "step", "skipped_steps", "recoveries")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("seeds", 2, "Places for each kind of poison in each schedule.", flag_values=values)
    flags.DEFINE_integer("replicas", 1, "1, or 2 for two replicas on this CPU.", flag_values=values)
    flags.DEFINE_list("schedules", list(SCHEDULES), "Which schedules.", flag_values=values)
    flags.DEFINE_string("csv", "poison.csv", "To add to: one row per run.", flag_values=values)


class Poison(keras.callbacks.Callback):
    """Poisons a run once.

    Args:
      target: what is poisoned.
      kind: with what.
      epoch, step: when, from 1.
      replicas: of the run.
    """

    def __init__(self, target: str, kind: str, epoch: int, step: int, replicas: int = 1):
        super().__init__()
        self.replicas = replicas
        self.target, self.nan, self.place = target, kind == "not finite", (epoch, step)
        self.given = False
        self.bad_steps = 0  # that are still to come; counted here, because each replica computes every step
        self.bad_gradients = tf.Variable(False, trainable=False)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch."""
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Poisons a weight, a moment or the gradients of the next steps, if it is time."""
        if not self.given and (self.epoch, batch + 1) == self.place:
            self.give()
        self.bad_gradients.assign(self.bad_steps > 0)
        self.bad_steps -= 1

    def give(self) -> None:
        """Poisons a weight or a moment, or lets the gradients of the next steps be poisoned."""
        self.given = True
        k = self.model.phase.last
        weight = self.model.glow.parts[k].trainable_variables[0]
        slot = next(v for v in self.model.optimizers[k].variables if v.shape == weight.shape)
        if self.target == "gradient":
            self.bad_steps = 12
        elif self.target == "weight":
            weight.assign(np.full(weight.shape, np.nan) if self.nan else weight.numpy() + 10)
        elif self.target == "slot":
            slot.assign(np.full(slot.shape, np.nan if self.nan else 1e4))

    def batches(self, dataset: tf.data.Dataset, first_epoch: int) -> tf.data.Dataset:
        """Returns training data with one poisoned batch, once."""
        at = (self.place[0] - 1 - first_epoch) * STEPS + self.place[1] - 1
        if self.target != "batch" or at < 0 or self.given:
            return dataset
        sizes = np.full((BATCH, 1, 1, 1), 1e30 if self.nan else 100.0, np.float32)
        if self.replicas > 1:
            sizes[:-1] = 1  # the last image is on the last replica

        def spoil(place: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return batch | {"noise": batch["noise"] * tf.where(place == at, sizes, 1.0)}

        return dataset.enumerate().map(spoil)

    def gradients(self, gradients: list[list[tf.Tensor]]) -> list[list[tf.Tensor]]:
        """Returns the gradients of a step, as long as they are poisoned."""
        size = tf.where(self.bad_gradients, np.float32(np.nan if self.nan else 1e6), 1.0)
        return [[gradient * size for gradient in own] for own in gradients]


@contextlib.contextmanager
def poisoned(poison: Poison | None) -> Iterator[None]:
    """Within the context, the batches and gradients of runs are poisoned."""
    batches, update = context.Run.training_batches, Update.__call__

    def batches_poisoned(self: context.Run, first_epoch: int, first_step: int = 0) -> Any:
        return poison.batches(batches(self, first_epoch, first_step), first_epoch)

    def update_poisoned(self: Update, phase: Any, step: Any, *others: Any) -> Any:
        return update(self, phase, step._replace(gradients=poison.gradients(step.gradients)), *others)

    if poison is not None:
        context.Run.training_batches = batches_poisoned
        if poison.target == "gradient":
            Update.__call__ = update_poisoned
    try:
        yield
    finally:
        context.Run.training_batches, Update.__call__ = batches, update


def trained(schedule: str, replicas: int, poison: Poison | None) -> dict[str, Any]:
    """Returns what came of a run: its test bits/dim, or that it stopped; and its counts."""
    where = ["--strategy=mirrored", "--virtual_devices=2"] if replicas == 2 else ["--strategy=one_device"]
    with tempfile.TemporaryDirectory() as folder:
        given = config_of([*RUN, *where, f"--schedule={schedule}", f"--workdir={folder}/run"])
        try:
            with poisoned(poison), contextlib.redirect_stdout(io.StringIO()):
                summary = lifecycle.train(given, glow_tf.export, [poison] if poison else [])
        except DivergedError:
            return {"end": "stopped"}
        with pathlib.Path(folder, "run", "history.csv").open(newline="") as file:
            skipped = sum(int(row["skipped_steps"]) for row in csv.DictReader(file))
    return {"end": summary["test_bpd"], "recoveries": summary["recoveries"], "skipped_steps": skipped}


def main(given: flags.FlagValues) -> None:
    """Runs everything, and prints the counts."""
    counts = dict.fromkeys(("within", "better", "worse", "stopped"), 0)
    with added_to(given.csv, (*COLUMNS, "test_bpd", "undisturbed")) as add:
        for schedule in given.schedules:
            undisturbed = trained(schedule, given.replicas, None)["end"]
            for seed in range(given.seeds):
                for target in TARGETS:
                    for kind in KINDS:
                        moments = random.Random(f"{schedule} {target} {kind} {seed}")
                        place = moments.randint(2, EPOCHS), moments.randint(1, STEPS)
                        found = trained(
                            schedule, given.replicas, Poison(target, kind, *place, given.replicas)
                        )
                        end = found.pop("end")
                        behind = 0.0 if end == "stopped" else end - undisturbed
                        sort = "worse" if behind > WITHIN else "better" if behind < -WITHIN else "within"
                        counts["stopped" if end == "stopped" else sort] += 1
                        labels = (given.replicas, schedule, seed, target, kind, *place)
                        row = dict(zip(COLUMNS, labels, strict=False)) | found
                        add(row | {"test_bpd": end, "undisturbed": undisturbed})
                        print(*labels, found, end, f"{behind:+.4f}", flush=True)
    print(f"runs within {WITHIN} bits/dim of the undisturbed one, better, worse, and stopped: {counts}")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
