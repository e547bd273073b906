"""What is wrong with a run although its weights are finite. Pure Python: no TensorFlow."""

import math
from collections.abc import Mapping, Sequence

from glow_tf.config import TrainConfig
from glow_tf.layout.schedule import Phase, epochs_training
from glow_tf.training.optim.rates import unsuited_rates

RISE = 1.0  # bits/dim above the lowest training bpd so far; a new phase or a part's turn moves it by less
# Levels; from half a level on, images do not come back exactly. The largest error of a thousand images was
# 1.5 to 2.1 times that of the few that are looked at, so this warns at about half of what is allowed.
ROUND_TRIP = 0.125
ROUND_TRIP_OF_REAL = 1e-3  # deviations of a channel; real data come back nearly, never exactly
# A standard error of this share of the mean comes from a few images: of 1,120 runs in docs/results, those in
# which a single image carried the score had 0.18 and more, but for one, and all others 0.04 and less.
CARRIED = 0.15
# Bits/dim above the best epoch, in each of the last two, while training bits fell. It was so after some epoch
# in 11 of the runs in docs/results, and after the last one in 2.
OVERFIT = 0.05
# The rate of every weight times the number of flow steps. In docs/results/one_rate_tuning.csv training ran
# away, or scored 0.5 bits/dim worse, at 3 and more, and never at 1.6 and less.
HIGH = 2.5


def troubles_ahead(train: TrainConfig, phases: Sequence[Phase], num_parts: int, flow_steps: int) -> list[str]:
    """Returns a sentence for what is wrong with the schedule, and with the rates; empty if nothing is.

    `flow_steps` are those of all parts.
    """
    found = []
    never = ", ".join(str(k + 1) for k in range(num_parts) if not epochs_training(k, phases))
    if never and not train.only_part:
        found.append(
            f"no epoch trains part {never} of {num_parts}. Raise part_epochs until each part has its turn, "
            "or finetune_epochs"
        )
    if train.optimizer == "sgd":
        return found
    highest = max(train.learning_rates())
    if train.rate_scaling == "size":
        found += unsuited_rates(highest, train.warmup_steps)
    elif highest * flow_steps >= HIGH:
        found.append(
            f"a learning rate of {highest:g} for every weight of {flow_steps} flow steps may make training "
            "run away. Lower it, or let it follow the size of the model (--rate_scaling=size)"
        )
    return found


def troubles(rows: Sequence[Mapping[str, str]], n_bits: int | None) -> list[str]:
    """Returns what is wrong after the last of the rows of history.csv, with a remedy: a sentence for each.

    `n_bits` is that of the model; None is one of real data.
    """
    last = rows[-1]
    found = []
    missed = float(last.get("round_trip_error") or 0)
    if not missed <= (ROUND_TRIP_OF_REAL if n_bits is None else ROUND_TRIP):
        of = "deviations of a channel" if n_bits is None else "levels, and only below 0.5 it is exact"
        found.append(
            f"the round trip is about to be lost: decoded images miss by {missed:.3g} {of}. A lower learning "
            "rate, or a tighter bound of the scales (--scale), usually helps"
        )
    test, error = (float(last.get(name) or "nan") for name in ("test_bpd", "test_bpd_se"))
    if not math.isfinite(test):
        found.append(
            "the test score is not finite. A test value far beyond those that are trained on, or a training "
            "that diverged, makes it so: look for the one, or lower the learning rate"
        )
    # Before every part was trained once, a finite score of the whole says nothing yet.
    if not last.get("train_bpd"):
        return found
    trained = [float(row["train_bpd"]) for row in rows if row.get("train_bpd")]
    if not trained[-1] <= min(trained) + RISE:
        found.append(
            f"training diverges: {trained[-1]:.4g} bits/dim, after {min(trained):.4f}. A lower learning rate "
            "or a longer warm-up usually helps"
        )
    overfits = overfitting(rows)
    found += overfits
    if n_bits is not None and n_bits <= test < math.inf:
        remedy = "" if overfits else ". It needs more training, or a lower learning rate"
        found.append(f"the model is worse than a uniform density, which needs {n_bits} bits/dim{remedy}")
    if error > CARRIED * abs(test):
        found.append("a few test images carry the mean: see its standard error, and the images")
    return found


def overfitting(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns a sentence if the bits of images that were held out rise while those of training fall."""
    held = "validation" if rows[-1].get("validation_bpd") else "test"
    scored = [
        (float(row[f"{held}_bpd"]), float(row["train_bpd"]), epoch)
        for epoch, row in enumerate(rows, start=1)
        if row.get("train_bpd") and math.isfinite(float(row.get(f"{held}_bpd") or "nan"))
    ]
    best, trained, epoch = min(scored, default=(math.inf, -math.inf, 0))
    last, now, _ = scored[-1] if scored else (0.0, 0.0, 0)
    if now >= trained or any(bits <= best + OVERFIT for bits, _, _ in scored[-2:]):
        return []
    kept = "the run keeps its best epoch, which commands use"
    if held == "test":
        kept = "with --validation_examples=N a run keeps its best epoch, which commands then use"
    return [
        f"the model overfits: since epoch {epoch} {held} bits have risen from {best:.4f} to {last:.4f}, "
        f"while training bits fell from {trained:.4f} to {now:.4f}. Fewer epochs, more images, --augment or "
        f"a smaller model help; {kept}"
    ]
