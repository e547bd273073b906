"""A run: where it lives, and everything it is made of."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from glow_tf.config.choices import COMPILERS, MOST_DEVICES, PRIOR, STRATEGIES
from glow_tf.config.data import DataConfig
from glow_tf.config.model import ModelConfig
from glow_tf.config.setting import check_fields, require, setting, settings_of
from glow_tf.config.train import TrainConfig, check_batch
from glow_tf.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run: where it lives, and everything it is made of."""

    workdir: str | os.PathLike = setting(  # noqa: RUF009
        "", "Folder of the run: history, checkpoints, logs, samples, export.", may_differ=True
    )
    seed: int = setting(0, "The one seed from which everything random follows.")
    init_from: str | os.PathLike = setting(  # noqa: RUF009
        "",
        "Start from the weights of a workdir, a .keras file or a preset; the run has its own data and "
        "schedule. On the command line the model's settings stand in the place of those in flagfiles. prior: "
        "the preset of photographs that fits the images, unless they are unlike it.",
    )
    strategy: str = setting(
        "auto",
        "auto, one_device, mirrored (every device trains on a slice of the batch), multi_worker (every "
        "process of a cluster does), or part_parallel (every part on its own device).",
        choices=STRATEGIES,
        may_differ=True,
    )
    virtual_devices: int = setting(
        0,
        "Logical CPU devices, to try a strategy without GPUs; 0 is off.",
        most=MOST_DEVICES,
        may_differ=True,
    )
    part_devices: str | Sequence[str] = setting(
        "",
        "Device of each part under part_parallel, comma-separated; empty: device k for part k.",
        may_differ=True,
    )
    jit_compile: str = setting(
        "auto",
        "Compile training steps with XLA: on, off, or auto (on where there is a GPU).",
        choices=COMPILERS,
        may_differ=True,
    )
    streams: int = setting(
        0,
        "Pieces of a batch that run side by side, one per core; 0: as many as pay, 1: TensorFlow's own way.",
        most=MOST_DEVICES,
        may_differ=True,
    )
    tensorboard: bool = setting(True, "Write TensorBoard logs.", may_differ=True)
    sample_every: int = setting(
        -1,
        "Epochs between sample grids, which the last epoch has too; 0: never, -1: ten grids per run at most, "
        "and that of the last epoch.",
        least=-1,
        may_differ=True,
    )
    export: bool = setting(True, "Write a SavedModel at the end.", may_differ=True)
    patience: int = setting(
        0,
        "Epochs after which a run ends if none of them was better than the best on validation images; 0: it "
        "makes all its epochs.",
        may_differ=True,
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        check_fields(self)
        typed = dataclasses.replace(self.data, dtype=self.model.data_dtype)
        object.__setattr__(self, "data", typed)
        for name, value in self.to_settings().items():
            if {"\n", "\r"}.intersection(str(value)):
                raise ConfigError(f"{name} must be one line, as flags.cfg has it. Received: {value!r}")
        require(self.workdir.strip() != "", self, "workdir", "the folder of the run")
        known = "a model; what prior stands for is decided when the images are known, by the command"
        require(self.init_from != PRIOR, self, "init_from", known)
        if self.patience and not self.data.validation_examples:
            raise ConfigError(
                "patience needs validation_examples, by which epochs are compared. "
                f"Received: patience={self.patience}, validation_examples=0"
            )
        # Otherwise this would be found only after all images have been read.
        if examples := self.data.train_examples:
            check_batch(examples, self.train.batch_size)
        self._check_crop()
        self._check_strategy()

    def _check_strategy(self) -> None:
        if self.part_devices.strip(",") and self.strategy != "part_parallel":
            raise ConfigError(
                "part_devices needs strategy=part_parallel, and a device for each part. "
                f"Received: part_devices={self.part_devices!r}, strategy={self.strategy!r}"
            )
        if self.strategy == "multi_worker" and self.virtual_devices:
            raise ConfigError(
                "virtual_devices belong to a single process and need another strategy than multi_worker. "
                f"Received: virtual_devices={self.virtual_devices}, strategy='multi_worker'"
            )
        if self.strategy == "part_parallel" and self.train.cache_prefix:
            raise ConfigError(
                "cache_prefix keeps the prefix's outputs in one place and needs another strategy than "
                "part_parallel. Received: cache_prefix=True, strategy='part_parallel'"
            )

    def _check_crop(self) -> None:
        """Raises ConfigError if something is kept of whole images, where the model learns from crops."""
        if self.data.crop and (self.train.cache_prefix or self.strategy == "part_parallel"):
            raise ConfigError(
                "crop needs cache_prefix=false and another strategy than part_parallel: both know the size "
                f"of whole images. Received: cache_prefix={self.train.cache_prefix}, "
                f"strategy={self.strategy!r}"
            )

    @property
    def compiles(self) -> bool | str:
        """Whether training steps are compiled with XLA: True, False or `auto`, as `PartsTrainer` takes it."""
        return {"on": True, "off": False}.get(self.jit_compile, self.jit_compile)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Builds the whole from one flat mapping of setting to value, as flags give it."""
        if unknown := set(settings) - {setting.name for setting in all_settings()}:
            raise ConfigError(f"these are not settings of a run. Received: {', '.join(sorted(unknown))}")
        groups = {}
        for group, config_class in GROUPS.items():
            names = [f.name for f in settings_of(config_class)]
            groups[group] = config_class(**{n: settings[n] for n in names if n in settings})
        own = {f.name: settings[f.name] for f in settings_of(cls) if f.name in settings}
        return cls(**own, **groups)

    def to_settings(self) -> dict[str, Any]:
        """The flat mapping from which `from_settings` builds the same run."""
        objects = (self, *(getattr(self, group) for group in GROUPS))
        return {f.name: getattr(o, f.name) for o in objects for f in settings_of(type(o))}


GROUPS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}


def all_settings() -> list[dataclasses.Field]:
    """Every setting of a run, in the order of the help page."""
    return [f for c in (RunConfig, *GROUPS.values()) for f in settings_of(c)]


# A resumed run may have other values of these; all other settings must be equal.
MAY_DIFFER = frozenset(setting.name for setting in all_settings() if setting.metadata["may_differ"])
