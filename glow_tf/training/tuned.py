"""What suits a training that starts from a prior, by the number of its images. Pure Python."""

from collections.abc import Mapping
from typing import Any

TUNED = ("validation_examples", "schedule", "part_epochs", "finetune_epochs", "learning_rate")
TUNED += ("rate_scaling", "warmup_steps", "batch_size", "ema", "patience", "augment")
FEW = 80  # images, of which a tenth would be fewer than `LEAST_HELD_OUT`
LEAST_HELD_OUT, MOST_HELD_OUT = 8, 1000
MANY = 1000  # images, which need no mirror images beside them
FEWEST_EPOCHS, MOST_EPOCHS = 2, 50
# An average that begins with the prior and remembers 200 steps: of few images it holds on to the prior, as
# a mean of both models' weights does (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
HOLDING = 0.995


def held_out(examples: int) -> int:
    """Returns how many of the training images choose the best epoch."""
    share = examples // 4 if examples < FEW else examples // 10
    return min(share, LEAST_HELD_OUT if examples < FEW else MOST_HELD_OUT)


def tuned(given: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Returns the settings `TUNED`, as suits a run that starts from a prior; those that are given stay.

    Fewer images are seen more often, and at a lower rate: 160 images 20 times, 3,200 images 8 times.
    """
    found: dict[str, Any] = {}

    def choose(name: str, value: Any) -> Any:
        return found.setdefault(name, given.get(name, value))

    validation = choose("validation_examples", held_out(examples))
    trained = max(examples - validation, 1)
    choose("schedule", "simultaneous")
    epochs = min(max(round(20 * (160 / examples) ** 0.3), FEWEST_EPOCHS), MOST_EPOCHS)
    end_to_end = choose("finetune_epochs", 0)
    epochs = end_to_end + choose("part_epochs", 0 if end_to_end else epochs)
    choose("learning_rate", "5e-3" if examples < FEW else "1e-2" if examples < MANY else "2e-2")
    choose("rate_scaling", "size")
    batch = choose("batch_size", min(4 if examples < FEW else 8, trained))
    choose("warmup_steps", min(100, epochs * (trained // max(batch, 1)) // 3))
    choose("ema", HOLDING)
    choose("augment", "flip" if examples < MANY else "none")
    choose("patience", max(-(-epochs // 3), 2) if validation else 0)
    return found
