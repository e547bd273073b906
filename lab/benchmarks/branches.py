"""Trains a model, and goes on from one state in several ways; rates follow any curve.

    python -m lab.benchmarks.branches --question=switch --seeds=10,11,12 --data_dir=PATH --csv=switch.csv

CIFAR-10, 3 × 4 flow steps of width 32, flow heads, batches of 16, 200 steps per epoch, where a question does
not say otherwise. A row of the CSV is one evaluation; `cpu_seconds` are those of training, tracing apart. The
questions:

- switch: at the first end-to-end epoch after two sequential parts (four epochs each), are the parts ahead of
  end-to-end training of the same predicted cost, and what remains of it? Both go on end to end: `go_on` for
  four epochs at the rates as planned, `anneal` for one epoch in which the rate falls to 0. For the parts also
  `fresh_moments` (optimizers start anew) and `warm_up` (the rate rises over 100 steps).
- lead: three simultaneous parts by block, ten epochs; the cosine of part k of n reaches 0, and the part ends,
  `lead` · (n − k) epochs before the end.
- turns: width 128, batches of 8; three parts by block in turn, for 9, 4 and 3 epochs, each on what the cache
  of the parts before it holds, and 7, 8 and 9 epochs end to end. Each has cosines of its own.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import Phase
from glow_tf.commands import cli
from glow_tf.commands.run_flags import config_of
from glow_tf.devices.streams import set_up_process
from glow_tf.layout.cost import relative_cost
from glow_tf.layout.schedule import end_to_end, epoch_costs, one_part, simultaneous
from glow_tf.run.callbacks import FillPrefixCaches
from glow_tf.run.context import prepare
from glow_tf.run.epoch import EpochResult
from glow_tf.run.files.workdir import Workdir
from lab.benchmarks.rows import added_to

BATCH = 16
MODEL = (
    *("--flagfile=configs/network_0_5.cfg", "--flow_steps=4", "--width=32", "--local_prior=flow:8x2"),
    *("--train_examples=3200", "--test_examples=1024", f"--batch_size={BATCH}"),
    *("--rate_schedule=constant", "--warmup_steps=0", "--on_divergence=stop"),
)
WARM_UP = 100  # steps
COLUMNS = ("question", "seed", "arm", "cost", "epochs_after_the_branch", "test_bpd", "cpu_seconds")

# From a part (from 0) and the steps that have trained it to what its rate is multiplied by.
Factor = Callable[[int, int], float]


def cosine(done: float) -> float:
    """Returns what is left of a rate when a share of its steps is done."""
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def warm(step: int) -> float:
    """Returns what a rate is multiplied by in a warm-up's step, from 0."""
    return min(1.0, (step + 1) / WARM_UP)


def decaying(steps: int) -> Factor:
    """Returns what multiplies the rates of all parts over so many steps: a warm-up, and a cosine to 0."""
    return lambda _, step: warm(step) * cosine(step / steps)


class SetFactors(keras.callbacks.Callback):
    """Sets the rates of the active parts before each step."""

    def __init__(self, branches: "Branches", factor: Factor):
        super().__init__()
        self.branches, self.factor = branches, factor

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets them, and counts the step."""
        steps = self.branches.steps
        for k in self.model.phase.active:
            self.model.rate_factors[k].assign(self.factor(k, steps[k]))
            steps[k] += 1


class Branches:
    """A model in training, whose state can be kept and restored."""

    def __init__(self, seed: int, data_dir: str, *settings: str):
        with tempfile.TemporaryDirectory() as folder:
            own = (f"--seed={seed}", f"--data_dir={data_dir}", f"--workdir={folder}/run")
            config = config_of([*MODEL, *settings, *own])
            workdir = Workdir(config)
            self.run = prepare(config, workdir, None, tf.distribute.get_strategy())
            workdir.close()
        self.trainer = self.run.trainer
        self.steps_per_epoch = self.run.steps_per_epoch
        self.test = self.run.held_out["test"]
        self.steps = [0] * len(self.run.layouts)  # that have trained each part
        self.cpu_seconds = 0.0  # of training since the last `restore`
        self.moments = [v for optimizer in self.trainer.optimizers for v in optimizer.variables]
        self.variables = [*self.trainer.glow.variables, *self.moments]

    def cost(self, phase: Phase) -> float:
        """Returns the predicted cost of an epoch over that of an end-to-end epoch."""
        return epoch_costs(self.run.layouts, [phase])[0]

    def state(self) -> tuple[list[np.ndarray], list[int]]:
        """Returns weights, the optimizers' state and the parts' steps."""
        return [v.numpy().copy() for v in self.variables], list(self.steps)

    def restore(self, state: tuple[list[np.ndarray], list[int]]) -> None:
        """Goes back to a state."""
        for variable, value in zip(self.variables, state[0], strict=True):
            variable.assign(value)
        for cache in self.trainer.prefix_caches.values():
            cache.forget()
        self.steps, self.cpu_seconds = list(state[1]), 0.0

    def forget_moments(self) -> None:
        """Sets the optimizers' moments and step counts to 0."""
        for variable in self.moments:
            variable.assign(tf.zeros_like(variable.value))

    def train(self, phase: Phase, epoch: int, factor: Factor, steps: int | None = None) -> float:
        """Trains an epoch (from 0), or its first steps; returns the test bits/dim."""
        self.trainer.phases = (phase,) * (epoch + 1)
        self.trainer.divergence_monitor.forget()
        start = time.process_time()
        self.trainer.fit(
            self.run.training_batches(epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=steps or self.steps_per_epoch,
            callbacks=[FillPrefixCaches(self.run, EpochResult()), SetFactors(self, factor)],
            verbose=0,
        )
        self.cpu_seconds += time.process_time() - start
        return self.trainer.evaluate(self.test, return_dict=True, verbose=0)["bpd"]


# Arm, cost, epochs after the branch, test bits/dim, and the CPU seconds where the question is about time.
Row = tuple[str, float, float, float] | tuple[str, float, float, float, float]
TURNS, FINETUNE = (4, 4), 4
ARMS = {"parts": ("anneal", "go_on", "fresh_moments", "warm_up"), "end_to_end": ("anneal", "go_on")}


def switch(seed: int, data_dir: str) -> Iterator[Row]:
    """Answers `switch` for one seed."""
    model = Branches(seed, data_dir, "--parts=across_block:2", "--schedule=sequential")
    start, epoch_steps = model.state(), model.steps_per_epoch
    own = [(turn + FINETUNE) * epoch_steps for turn in TURNS]

    def of_parts(k: int, step: int) -> float:
        return warm(step) * cosine(step / own[k])

    turns = [one_part(k) for k, turn in enumerate(TURNS) for _ in range(turn)]
    cost = sum(map(model.cost, turns))
    for epoch, phase in enumerate(turns):
        bpd = model.train(phase, epoch, of_parts)
    yield "parts", cost, 0, bpd
    yield from _go_on(model, "parts", cost, len(turns), of_parts)

    def of_whole(k: int, step: int) -> float:
        return warm(step) * cosine(step / ((cost + FINETUNE) * epoch_steps))

    model.restore(start)
    left = [epoch_steps] * int(cost) + [round(cost % 1 * epoch_steps)]
    for epoch, steps in enumerate(left):
        bpd = model.train(end_to_end(2), epoch, of_whole, steps)
    yield "end_to_end", cost, 0, bpd
    yield from _go_on(model, "end_to_end", cost, len(left), of_whole)


def _go_on(model: Branches, name: str, cost: float, epoch: int, planned: Factor) -> Iterator[Row]:
    """Trains end to end from the model's state in each way of the arm."""
    state, first = model.state(), list(model.steps)
    factors: dict[str, Factor] = {
        "anneal": lambda k, step: planned(k, first[k]) * cosine((step - first[k]) / model.steps_per_epoch),
        "warm_up": lambda k, step: planned(k, step) * warm(step - first[k]),
    }
    for way in ARMS[name]:
        model.restore(state)
        if way == "fresh_moments":
            model.forget_moments()
        for after in range(1 if way == "anneal" else FINETUNE):
            bpd = model.train(end_to_end(2), epoch + after, factors.get(way, planned))
            yield f"{name}, {way}", cost + after + 1, after + 1, bpd


LEADS, EPOCHS = (0.0, 0.5, 1.0), 10


def lead(seed: int, data_dir: str) -> Iterator[Row]:
    """Answers `lead` for one seed."""
    model = Branches(seed, data_dir, "--parts=by_block:3", "--schedule=simultaneous")
    phase, start = simultaneous(3), model.state()
    whole = model.cost(phase)
    saved = [whole - relative_cost(model.run.layouts, [j for j in range(3) if j != k]) for k in range(2)]
    for epochs in LEADS:
        model.restore(start)
        own = [(EPOCHS - epochs * (2 - k)) * model.steps_per_epoch for k in range(3)]
        for epoch in range(EPOCHS):
            bpd = model.train(phase, epoch, lambda k, step, own=own: warm(step) * cosine(step / own[k]))
        cost = EPOCHS * whole - sum(epochs * (2 - k) * saved[k] for k in range(2))
        yield f"lead {epochs:g}", cost, EPOCHS, bpd


WIDE = ("--width=128", "--local_prior=flow:32x2", "--batch_size=8", "--parts=by_block:3")
EPOCHS_OF_PARTS, WHOLE_EPOCHS = (9, 4, 3), (7, 8, 9)


def turns(seed: int, data_dir: str) -> Iterator[Row]:
    """Answers `turns` for one seed."""
    most = max(EPOCHS_OF_PARTS)
    in_turn = ("--schedule=sequential", f"--part_epochs={most * 3}", "--finetune_epochs=0", "--cache_prefix")
    model = Branches(seed, data_dir, *WIDE, *in_turn)
    start, phase = model.state(), end_to_end(3)
    for k in range(3):
        model.train(one_part(k), k * most, lambda *_: 1.0, steps=2)  # is traced
    model.train(phase, 0, lambda *_: 1.0, steps=2)
    model.restore(start)
    for k, epochs in enumerate(EPOCHS_OF_PARTS):
        for epoch in range(k * most, k * most + epochs):
            bpd = model.train(one_part(k), epoch, decaying(epochs * model.steps_per_epoch))
    planned = [one_part(k) for k, epochs in enumerate(EPOCHS_OF_PARTS) for _ in range(epochs)]
    cost = sum(epoch_costs(model.run.layouts, planned, cache_prefix=True))
    yield "in turn", cost, sum(EPOCHS_OF_PARTS), bpd, model.cpu_seconds
    for epochs in WHOLE_EPOCHS:
        model.restore(start)
        for epoch in range(epochs):
            bpd = model.train(phase, epoch, decaying(epochs * model.steps_per_epoch))
        yield "end to end", epochs, epochs, bpd, model.cpu_seconds


QUESTIONS = {"switch": switch, "lead": lead, "turns": turns}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_enum("question", "switch", list(QUESTIONS), "What is asked.", flag_values=values)
    flags.DEFINE_list("seeds", ["10"], "Comma-separated.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "Of TFDS.", flag_values=values)
    flags.DEFINE_string("csv", "branches.csv", "To add to.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Trains every arm for every seed, prints a row for each evaluation and writes them as CSV."""
    set_up_process(BATCH)
    with added_to(values.csv, COLUMNS) as add:
        for seed in values.seeds:
            for arm, cost, epochs, bpd, *seconds in QUESTIONS[values.question](int(seed), values.data_dir):
                row = [values.question, seed, arm, f"{cost:.4f}", f"{epochs:g}", f"{bpd:.6f}"]
                row.append(f"{seconds[0]:.1f}" if seconds else "")
                print(", ".join(row), flush=True)
                add(row)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
