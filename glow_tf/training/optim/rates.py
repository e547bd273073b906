"""Do learning rates suit the model? Pure Python: no TensorFlow."""

from __future__ import annotations

from glow_tf.config import TrainConfig

SLOW = 20  # times below the default rate
# Of the default rate; on digits such a constant rate overshoots, and the default itself ends far above where
# it began. With a warm-up neither does.
FAST = 0.5


def unsuited_rates(highest: float, warmup_steps: int) -> list[str]:
    """Returns a sentence for what is wrong with rates under `rate_scaling=size`; empty if nothing is.

    `highest` is the highest rate of a part, for Adamax or Adam.
    """
    default = TrainConfig()
    rate = float(default.learning_rate)
    # Most weights of a large model have a small part of it. A rate of 0 is for callbacks that warm up.
    if highest > 0 and round(highest, 7) < rate / SLOW:
        return [
            f"a learning rate of {highest:g} is {rate / highest:.0f} times below the default, {rate:g}, "
            "which suits models of every size. Rates that other codes name are for rate_scaling=none"
        ]
    if highest >= FAST * rate and not warmup_steps:
        return [
            f"a learning rate of {highest:g} from the first step on can make training run away. Let it warm "
            f"up: {default.warmup_steps} steps are the default (warmup_steps of TrainConfig)"
        ]
    return []
