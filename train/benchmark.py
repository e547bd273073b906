"""Times each phase of a partition against an end-to-end step, interleaved in one process.

`python train/benchmark.py --flagfile=configs/cifar10_small_across_2.cfg --data_dir=PATH`

The flags are those of main.py (the schedule is not used: every phase that the parts allow is timed). Phases
take turns, `--timed_steps` steps at a time, `--rounds` times over, so that a drift of the machine's speed
meets all of them; the table gives the median ratio to the end-to-end phase of the same round.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses

import flags_of_run
from absl import app, flags, logging

from glow_tf import ConfigError, Glow, PartsTrainer, Phase, data, distribution, tables
from glow_tf.optimizers import make_optimizers
from glow_tf.partition import relative_cost
from glow_tf.schedule import end_to_end

flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)  # so that --help lists them
TIMED_STEPS = flags.DEFINE_integer("timed_steps", 10, "Steps a phase runs in its turn.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of every phase.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Times the phases and prints the table."""
    logging.set_verbosity(logging.WARNING)
    try:
        time_phases(flags_of_run.run_config())
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def time_phases(config) -> None:
    """Runs every phase in turn through Keras's compiled train function, as `fit` does."""
    strategy = distribution.make_strategy(config.strategy, config.virtual_devices)
    images = data.load(config.data)
    model_config = dataclasses.replace(config.model, image_shape=images.image_shape, seed=config.seed)
    plans = model_config.plans()
    parts = range(len(plans))
    phases = [end_to_end(len(plans)), *[Phase("part", (k,)) for k in parts if len(plans) > 1]]
    with strategy.scope():
        trainer = PartsTrainer(Glow(model_config, name="glow"), phases, seed=config.seed)
        optimizers = make_optimizers(config.train, phases, len(plans), steps_per_epoch=1000)
        trainer.compile(optimizers, clip_norm=config.train.clip_norm, reversible=config.train.reversible)
    trainer.initialize(images.train[:256])
    batches = data.training_batches(images.train, config.train.batch_size, config.seed)
    iterator = iter(strategy.experimental_distribute_dataset(batches))

    def seconds_per_step(phase: Phase) -> float:
        trainer.set_phase(phase)
        start = time.perf_counter()
        for _ in range(TIMED_STEPS.value):
            trainer.train_function(iterator)
        return (time.perf_counter() - start) / TIMED_STEPS.value

    for phase in phases:
        seconds_per_step(phase)  # traces and warms up
    rounds = [[seconds_per_step(phase) for phase in phases] for _ in range(ROUNDS.value)]
    rows = []
    for phase, times in zip(phases, zip(*rounds, strict=True), strict=True):
        ratios = [t / r[0] for t, r in zip(times, rounds, strict=True)]
        predicted = relative_cost(plans, phase.active, phase.end_to_end)
        middle = statistics.median(ratios)
        rows.append(
            [
                str(phase),
                f"{1000 * statistics.median(times):.1f}",
                f"{config.train.batch_size / statistics.median(times):.0f}",
                f"{middle:.3f}",
                f"{min(ratios):.3f}–{max(ratios):.3f}",
                f"{predicted:.3f}",
                f"{100 * (middle / predicted - 1):+.1f} %",
            ]
        )
    header = ["phase", "ms/step", "images/s", "time / end to end", "range", "predicted", "off by"]
    print(f"{distribution.device_name()}; medians of {ROUNDS.value} rounds of {TIMED_STEPS.value} steps")
    print(tables.table(header, rows))


if __name__ == "__main__":
    app.run(main)
