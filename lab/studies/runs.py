"""The runs of a study, and what became of each. Pure Python: no TensorFlow."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

from glow_tf.architectures import design_of
from glow_tf.architectures.partition import BOTH_WAYS
from glow_tf.architectures.schedule import Phase, epoch_costs, phases_of
from glow_tf.config import MAY_DIFFER, ModelConfig, RunConfig, all_settings
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_text
from glow_tf.run.flags_file import differing_settings, read_settings
from glow_tf.run.workdir import SUMMARY
from glow_tf.store import settings_of
from glow_tf.store.checkpoints import MODEL
from lab.studies.study import Study, Variant

FAILURE = "failure.txt"
FINISHED, UNFINISHED = "finished", "unfinished"  # outcomes; any other is the reason why a run failed

Configure = Callable[[Mapping[str, str]], RunConfig]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      variant: the variant that it is a run of.
      label: tells it from the variant's other runs: the seed, or the value that is tried.
      seed: its seed.
      value: of the tuned flag; empty if none is tuned.
      flags: all flags but the flagfile, flag → value.
      config: the configuration that the flags make.
    """

    variant: Variant
    label: str
    seed: int
    value: str
    flags: Mapping[str, str]
    config: RunConfig

    @property
    def workdir(self) -> pathlib.Path:
        """Its folder."""
        return pathlib.Path(self.config.workdir)

    @property
    def epoch_costs(self) -> list[float]:
        """Predicted cost of every epoch; an end-to-end epoch of the same model is 1."""
        train = self.config.train
        return epoch_costs(design_of(self._model).layouts, self.phases, train.cache_prefix, train.reversible)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phase of every epoch."""
        return phases_of(self.config)

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that tell its settings from others.

        Settings that a resumed run may change do not count (`MAY_DIFFER`), nor do those that have their
        default: so a later release, with more settings, gives the same digits.
        """
        before = {setting.name: setting.default for setting in all_settings()}
        own = {
            name: str(value)
            for name, value in self.config.to_settings().items()
            if name not in MAY_DIFFER and str(value) != str(before[name])
        }
        text = json.dumps([self.variant.program, own], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape of its images; None before it has read them."""
        kept = self.workdir / "checkpoints" / MODEL
        return settings_of(self.workdir).image_shape if kept.exists() else None

    @property
    def _model(self) -> ModelConfig:
        """Its model, for images as far as they are known; otherwise they are taken to be 32×32×3."""
        model = self.config.model
        if shape := self.image_shape:
            return dataclasses.replace(model, image_shape=shape)
        if size := self.config.data.image_size:
            return dataclasses.replace(model, image_shape=(size, size, model.image_shape[-1]))
        return model

    @property
    def data(self) -> tuple[str, int]:
        """Names its images: those of runs with the same name have one shape."""
        return self.config.data.dataset, self.config.data.image_size

    def cost(self, shapes: Mapping[tuple[str, int], Sequence[int]] | None = None) -> float:
        """Returns the predicted cost of the whole run in multiply-adds; comparable within a study.

        `shapes` is what `known_shapes` returns.
        """
        model = self._model
        if (shape := (shapes or {}).get(self.data)) is not None:
            model = dataclasses.replace(model, image_shape=tuple(shape))
        train, layouts = self.config.train, design_of(model).layouts
        epochs = sum(epoch_costs(layouts, self.phases, train.cache_prefix, train.reversible))
        epoch = (BOTH_WAYS + train.reversible) * sum(layout.forward_macs for layout in layouts)
        return epoch * epochs * max(self.config.data.train_examples, 1)

    @property
    def finished(self) -> bool:
        """Whether the run is over, with or without success."""
        return (self.workdir / SUMMARY).exists() or bool(self.failure)

    @property
    def device(self) -> str:
        """What it ran on, as its summary says; empty before its end."""
        path = self.workdir / SUMMARY
        return str(json.loads(read_text(path)).get("device", "")) if path.exists() else ""

    @property
    def failure(self) -> str:
        """Why the run failed; empty if it did not."""
        path = self.workdir / FAILURE
        return read_text(path).strip() if path.exists() else ""

    def check(self) -> None:
        """Raises ConfigError if its folder holds a run of another configuration."""
        if differing := differing_settings(read_settings(self.workdir), self.config):
            raise ConfigError(
                "this workdir holds a run of another configuration. Received: "
                f"workdir={str(self.workdir)!r} with {', '.join(differing.values())}"
            )

    def fail(self, reason: str) -> None:
        """Records that the run failed and cannot be resumed."""
        write_atomically(self.workdir / FAILURE, (" ".join(reason.split()) + "\n").encode())

    def history(self) -> list[Mapping[str, str]]:
        """Returns the rows of its history.csv so far; OSError if the file is damaged."""
        path = self.workdir / "history.csv"
        try:
            return list(csv.DictReader(io.StringIO(read_text(path)))) if path.exists() else []
        except (ValueError, csv.Error) as error:
            raise OSError(f"{path} is damaged: {error}.") from None


def known_shapes(runs: Sequence[Run]) -> dict[tuple[str, int], Sequence[int]]:
    """Returns the shape of the images that one of the runs has read already, by `Run.data`."""
    return {run.data: shape for run in runs if (shape := run.image_shape)}


@dataclasses.dataclass(frozen=True)
class SavedRun(Run):
    """A run that is over, of which only its rows of an earlier table are left; see `with_saved_rows`.

    Attributes:
      rows: these rows, at least one.
    """

    rows: tuple[Mapping[str, str], ...]

    @property
    def epoch_costs(self) -> list[float]:
        """See base; the predictions of the time when the run was made."""
        return [float(row["predicted_cost"]) for row in self.history()]

    @property
    def fingerprint(self) -> str:
        """See base; empty in tables of the time before there were fingerprints."""
        return self.rows[0].get("settings", "")

    @property
    def device(self) -> str:
        """See base; empty in older tables."""
        return self.rows[0].get("device", "")

    @property
    def finished(self) -> bool:
        """See base."""
        return True

    @property
    def failure(self) -> str:
        """See base."""
        outcome = self.rows[0]["outcome"]
        return "" if outcome == FINISHED else outcome

    def history(self) -> list[Mapping[str, str]]:
        """Returns the rows of its epochs."""
        return [row for row in self.rows if row.get("epoch")]


def tuning_runs(study: Study, folder: pathlib.Path, configure: Configure) -> list[Run]:
    """Returns the runs that choose each variant's value of the tuned flag; none if no flag is tuned.

    Args:
      study: the study.
      folder: the workdirs lie under it.
      configure: makes a configuration from a run's flags.
    """
    if study.tuned is None:
        return []
    flag, values = study.tuned
    runs = []
    for variant in (v for v in study.variants if flag not in v.flags):
        for value in values:
            label = f"{flag}_{value}"
            flags = {"seed": "0", **study.all_flags, **variant.flags, **study.tune_flags}
            flags[flag] = value
            flags |= {
                "workdir": str(folder / "tuning" / variant.name / label),
                "tensorboard": "false",
                "sample_every": "0",
                "export": "false",
            }
            config = configure(flags)
            runs.append(Run(variant, label, config.seed, value, flags, config))
    return runs


def tuned_values(runs: Sequence[Run]) -> dict[str, str]:
    """Returns each variant's best value, by the validation bpd of the last epoch.

    Raises:
      ConfigError: all tuning runs of a variant failed.
    """
    best: dict[str, tuple[float, str]] = {}
    for run in runs:
        last = [] if run.failure else run.history()[-1:]
        bpd = float(last[0].get("validation_bpd") or "inf") if last else math.inf
        if math.isfinite(bpd):
            best[run.variant.name] = min(best.get(run.variant.name, (math.inf, "")), (bpd, run.value))
    if missing := {run.variant.name for run in runs} - set(best):
        raise ConfigError(
            f"[tune] must hold a value with which every variant trains. Received: all runs of "
            f"{', '.join(sorted(missing))} failed"
        )
    return {variant: value for variant, (_, value) in best.items()}


def runs_of(
    study: Study,
    folder: pathlib.Path,
    configure: Configure,
    values: Mapping[str, str],
    quick: bool = False,
) -> list[Run]:
    """Returns the runs of a study; all variants of a seed come before the next seed.

    Args:
      study: the study.
      folder: the workdirs lie under it.
      configure: makes a configuration from a run's flags.
      values: the tuned flag's value for each variant that was tuned.
      quick: one seed only, with the flags of the section quick.
    """
    runs = []
    for seed in study.seeds[:1] if quick else study.seeds:
        for variant in (variant for variant in study.variants if seed in variant.seeds):
            flags = {**study.all_flags, **variant.flags}
            if variant.name in values:
                flags[study.tuned[0]] = values[variant.name]
            flags |= study.quick_flags if quick else {}
            flags |= {"seed": str(seed), "workdir": str(folder / variant.name / f"seed_{seed}")}
            value = flags.get(study.tuned[0], "") if study.tuned else ""
            runs.append(Run(variant, f"seed {seed}", seed, value, flags, configure(flags)))
    return runs
