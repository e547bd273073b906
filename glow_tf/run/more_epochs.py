"""Whether a run that has finished some epochs can go on with other numbers of epochs.

Pure Python: no TensorFlow.
"""

from collections.abc import Sequence

from glow_tf.config import RunConfig
from glow_tf.schedule import Phase, epochs_training, phases_of

SETTINGS = frozenset({"part_epochs", "finetune_epochs"})


def obstacle(before: RunConfig, now: RunConfig, finished: int) -> str:
    """Says why a run that has finished some epochs cannot go on with other numbers of them; empty if it can.

    It can if the finished epochs are the first epochs of the new schedule, and if the new configuration would
    have trained them with the same learning rates. Then the run ends as if it had had the new numbers of
    epochs from the start. (With `cache_prefix` the noise of the finished epochs may be another one.)
    """
    old, new = phases_of(before), phases_of(now)
    if len(new) < finished:
        return f"{finished} epochs are finished, and the new schedule has {len(new)}"
    for epoch in range(finished):
        if old[epoch] != new[epoch]:
            return (
                f"epoch {epoch + 1} is finished and was '{old[epoch]}'; "
                f"in the new schedule it would have been '{new[epoch]}'"
            )
    for part in range(now.model.num_parts):
        for epoch in range(epochs_training(part, old[:finished])):
            was, would_be = _rate(before, old, part, epoch), _rate(now, new, part, epoch)
            if was[0] != would_be[0]:
                return (
                    f"finetune_learning_rate would have begun in another epoch of part {part + 1}, which is "
                    "finished"
                )
            if was != would_be:
                return (
                    f"the cosine rate of part {part + 1} in its finished epochs depends on the number of all "
                    "its epochs; only a run with --rate_schedule=constant can go on"
                )
    return ""


def _rate(
    config: RunConfig, phases: Sequence[Phase], part: int, epoch: int
) -> tuple[bool, tuple[int, int] | None]:
    """Returns what a part's rate in one of its own epochs (from 0) depends on, besides unchanged settings.

    That is: whether the rate is the finetune rate, and for a cosine its first and last epoch.
    """
    last = epochs_training(part, phases)
    first_end = epochs_training(part, phases[: config.train.part_epochs])
    if config.train.finetune_learning_rates(config.model.num_parts) is None:
        finetune, span = False, (0, last)
    elif epoch < first_end:
        finetune, span = False, (0, first_end)
    else:
        finetune, span = True, (first_end, last)
    return finetune, span if config.train.rate_schedule == "cosine" else None
