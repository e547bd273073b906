"""How a run trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from glow_tf.config import choices
from glow_tf.config.setting import check_fields, require, setting
from glow_tf.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Schedule of epochs and optimisation.

    The rates may also be given as numbers: `learning_rate=1e-3` is `"1e-3"`, and `learning_rate=(1e-3, 2e-3)`
    is `"1e-3,2e-3"`.
    """

    schedule: str = setting("end_to_end", "{}.", choices=choices.SCHEDULES)
    part_epochs: int = setting(60, "Epochs in parts, as the schedule says.", most=choices.MOST_EPOCHS)
    finetune_epochs: int = setting(30, "End-to-end epochs that follow.", most=choices.MOST_EPOCHS)
    period: int = setting(1, "Epochs a part keeps its turn in the alternating schedule.", least=1)
    optimizer: str = setting("adamax", "{}; one for each part.", choices=choices.OPTIMIZERS)
    beta_2: str | float = setting(
        "0.999", "Second-moment decay of adamax and adam, or oai: 1 − 1/(steps per epoch)."
    )
    learning_rate: str | float | Sequence[float] = setting(
        "1e-1",
        "One rate for all parts, or one rate per part, comma-separated. As a flag without --rate_scaling it "
        "is the rate of every weight (rate_scaling=none), as in other programs.",
    )
    rate_scaling: str = setting(
        "size",
        "size: the rate of each weight follows the width and the number of flow steps, so that one rate of "
        "adamax or adam suits models of all sizes, as the default does; none: every weight has the rate.",
        choices=choices.RATE_SCALINGS,
    )
    rate_schedule: str = setting("cosine", "{}, over a part's own steps.", choices=choices.RATE_SCHEDULES)
    warmup_steps: int = setting(100, "Steps over which a part's rate rises linearly from 0.")
    clip_norm: float = setting(1.0, "Largest global norm of the gradients; 0 does not clip.")
    max_skipped_steps: int = setting(
        10,
        "Steps in a row that are skipped if their loss or a gradient's norm is not finite; one more stops "
        "training, which diverges.",
        may_differ=True,
    )
    objective: str = setting(
        "",
        "module:Class of a LocalObjective of your own, which every part but the last is trained on in the "
        "place of its truncated likelihood; empty: none.",
    )
    ema: float = setting(
        0.0,
        "Decay of a moving average of each part's weights per step, such as 0.99; evaluations, samples and "
        "the export use the averages. 0: none.",
    )
    finetune_learning_rate: str | float | Sequence[float] = setting(
        "", "Rate(s) of the finetune_epochs, without warm-up; empty goes on as before."
    )
    steps_per_epoch: int = setting(
        0,
        "Steps of an epoch, after which a run evaluates and saves; the next one goes on with the images that "
        "follow. 0: one pass over the training images.",
    )
    batch_size: int = setting(8, "Images per step, over all replicas.", least=1)
    reversible: bool = setting(
        False, "Recompute activations instead of keeping them: less memory, more time."
    )
    cache_prefix: bool = setting(
        False, "Evaluate the parts before the trained one once per turn of several epochs; see period."
    )
    only_part: int = setting(
        0,
        "Train this part of levels alone, from 1, in every epoch, whatever the schedule; glow-tf assemble "
        "puts parts together. 0: all parts.",
    )

    def __post_init__(self):
        check_fields(self)
        require(
            self.part_epochs + self.finetune_epochs >= 1,
            self,
            "part_epochs",
            "at least one epoch in part_epochs + finetune_epochs",
        )
        require(math.isfinite(self.clip_norm) and self.clip_norm >= 0, self, "clip_norm", "0 or more")
        require(0 <= self.ema < 1, self, "ema", "0, or a number below 1")
        if self.beta_2 != "oai":
            betas = _floats(self.beta_2)
            suitable = len(betas) == 1 and 0 < betas[0] < 1
            require(suitable, self, "beta_2", "oai, or a number between 0 and 1")
        whole = not (self.steps_per_epoch and self.cache_prefix)
        require(whole, self, "steps_per_epoch", "0 with cache_prefix, which keeps whole passes")
        self.learning_rates()
        self.finetune_learning_rates()

    def learning_rates(self, num_parts: int | None = None) -> tuple[float, ...]:
        """Returns the rate of each part; ConfigError unless one was given, or one per part if it is known.

        Without the number of parts it returns the rates as they were given.
        """
        return self._rates("learning_rate", num_parts)

    def finetune_learning_rates(self, num_parts: int | None = None) -> tuple[float, ...] | None:
        """Returns each part's rate in the end-to-end epochs, or None if the rates go on as before."""
        return self._rates("finetune_learning_rate", num_parts) if self.finetune_learning_rate else None

    def _rates(self, name: str, num_parts: int | None) -> tuple[float, ...]:
        rates = _floats(getattr(self, name))
        suitable = all(math.isfinite(rate) and rate > 0 for rate in rates)
        require(suitable, self, name, "one positive rate, or one per part, comma-separated")
        if num_parts is None or len(rates) == num_parts:
            return rates
        if len(rates) > 1:
            raise ConfigError(
                f"{name} needs one rate, or one for each of the {num_parts} parts. "
                f"Received: {name}={getattr(self, name)!r}, {len(rates)} rates"
            )
        return rates * num_parts


def _floats(text: str) -> tuple[float, ...]:
    """Reads comma-separated numbers; a piece that is no number makes them one NaN."""
    try:
        return tuple(float(piece) for piece in text.split(","))
    except ValueError:
        return (math.nan,)


def check_batch(examples: int, batch_size: int) -> None:
    """Raises ConfigError if the training images do not fill one batch."""
    if batch_size > examples:
        raise ConfigError(
            f"batch_size must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )
