"""The settings of a run, as frozen dataclasses that check themselves; every list of choices.

Every setting is one field under one name, which is also the name of its flag; `metadata["help"]` describes
it. A value of the wrong type raises ConfigError. Pure Python: knows neither TensorFlow nor flags.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from glow_tf.cuts import Cuts, read_cuts
from glow_tf.errors import ConfigError as ConfigError
from glow_tf.heads import PRIORS, HeadSize, read_local_prior
from glow_tf.setting_types import check_types


def _setting(
    default: Any,
    help: str,
    *,
    choices: Collection[str] = (),
    least: int = 0,
    most: int | None = None,
    before: Any = None,
    may_differ: bool = False,
) -> Any:
    """Makes a field that says everything about one setting.

    Args:
      default: its value if nothing is said.
      help: what it does; `{}` stands for the choices.
      choices: the values of a setting that is one of a few words.
      least: the least value of an integer.
      most: the largest value of an integer; None: the class checks the value itself.
      before: its value in runs that began when the setting did not exist, if it is not the default.
      may_differ: a resumed run may have another value: it computes elsewhere, or prints something else.
    """
    if choices:
        *others, last = choices
        help = help.replace("{}", f"{', '.join(others)} or {last}")
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "least": least,
            "most": most,
            "before": default if before is None else before,
            "may_differ": may_differ,
        },
    )


FOLDER = "folder:"  # how a data set that is a folder begins


def folder_of(dataset: str) -> pathlib.Path | None:
    """Returns the folder that a data set names, in full if it begins with ~; None if it is no folder."""
    if not dataset.startswith(FOLDER):
        return None
    return pathlib.Path(os.path.expanduser(dataset.removeprefix(FOLDER)))


OUTPUTS_PER_CHANNEL = {"affine": 2, "additive": 1}  # coupling → what its network predicts per channel
SCALES = {"sigmoid": None, "exp": 8.0, "tanh": 2.0}  # → soft bound of the log-scale; `tanh:B` says its own
NORMS = ("actnorm", "bias")
PERMUTATIONS = ("lu", "plain", "shuffle", "reverse")
PRECISIONS = ("float32", "mixed_bfloat16")
SCHEDULES = ("end_to_end", "sequential", "alternating", "simultaneous")
AUGMENTATIONS = ("none", "flip", "shift", "flip_shift")
OPTIMIZERS = ("adamax", "adam", "sgd")
RATE_SCALINGS = ("size", "none")
RATE_SCHEDULES = ("constant", "cosine")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "part_parallel")
COMPILERS = ("auto", "on", "off")
ON_DIVERGENCE = ("recover", "stop")

# Beyond what anybody trains. They keep a slip of the pen from taking all memory, or days.
MOST_BLOCKS, MOST_STEPS, MOST_WIDTH, MOST_SIDE = 16, 512, 2**20, 2**16
MOST_EPOCHS, MOST_DEVICES = 1_000_000, 1024
MOST_LOG_SCALE = 8  # e^±8; far larger ones overflow float32
MOST = 2**31 - 1  # of any other integer

# Two models that differ in these settings alone compute the same function from the same flow steps.
SAME_FUNCTION = ("parts", "local_prior", "precision", "seed")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how many."""

    dataset: str = _setting("digits", "digits (scikit-learn), a TFDS image data set by name, or folder:PATH.")
    data_dir: str | os.PathLike = _setting(  # noqa: RUF009
        "", "TFDS's data_dir; empty means TFDS's own default.", may_differ=True
    )
    image_size: int = _setting(
        0, "Side to which images are resized; 0 keeps them as they are.", most=MOST_SIDE
    )
    train_examples: int = _setting(0, "Training images used; 0 means all.", most=MOST)
    test_examples: int = _setting(0, "Test images used; 0 means all.", most=MOST)
    validation_examples: int = _setting(
        0,
        "Images cut from the end of the training data; the best epoch is chosen by these alone.",
        most=MOST,
    )
    augment: str = _setting("none", "{}.", choices=AUGMENTATIONS)

    def __post_init__(self):
        """Raises ConfigError for values that no data set allows."""
        _check_each(self)
        named = self.dataset.removeprefix(FOLDER).strip() != ""
        _require(named, self, "dataset", "a name or folder:PATH")


@dataclasses.dataclass(frozen=True)
class CouplingConfig:
    """What a coupling is, from its transform to its network.

    Attributes:
      width: hidden channels of the network.
      kind: the transform, `affine` or `additive`.
      scale: how an affine transform reads its scale: `sigmoid`, `exp`, `tanh` or `tanh:B`.
      norm: of the network's hidden convolutions: `actnorm` or `bias`.
      network_dtype: dtype policy of the network, such as `mixed_bfloat16`; None is the layer's own.
    """

    width: int
    kind: str = "affine"
    scale: str = "tanh:1"
    norm: str = "actnorm"
    network_dtype: str | None = None

    def __post_init__(self):
        """Raises ConfigError for a choice that does not exist."""
        check_types(self)
        _in_range(self, "width", 1, MOST_WIDTH)
        _one_of(self, "kind", OUTPUTS_PER_CHANNEL)
        read_scale(self.scale)
        _one_of(self, "norm", NORMS)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The flow and its parts. `Glow(ModelConfig(...))` builds it.

    Three fields are not flags of the model, because the command takes them from the data and from the run:
    `image_shape` (H, W, C), `seed`, and `classes`, the names of the classes whose priors the model has; it is
    empty for a model that knows no classes.

    `parts` may also be given as numbers: `parts=3` is `"balanced:3"`, three parts that cost about the same,
    and `parts=(16, 32, 48)` is `"16,32,48"`, the flow steps of each part.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    n_bits: int = _setting(8, "Bits kept per pixel and channel, 1 to 8.", least=1, most=8)
    num_blocks: int = _setting(3, "Blocks (squeeze, flow steps, split): L.", least=1, most=MOST_BLOCKS)
    flow_steps: int = _setting(32, "Flow steps per block: K.", least=1, most=MOST_STEPS)
    width: int = _setting(512, "Hidden channels of a coupling network.", least=1, most=MOST_WIDTH)
    coupling: str = _setting("affine", "{}.", choices=OUTPUTS_PER_CHANNEL)
    scale: str = _setting(
        "tanh:1",
        "Scale of the affine coupling: sigmoid, exp, or tanh:B, from e^-B to e^B; tanh alone is tanh:2.",
    )
    norm: str = _setting("actnorm", "Inside the coupling networks: {}.", choices=NORMS)
    permutation: str = _setting("lu", "Channel mixing: {}.", choices=PERMUTATIONS)
    split_prior: str = _setting("learned", "Prior of factored-out latents: {}.", choices=PRIORS)
    top_prior: str = _setting("learned", "Prior of the last latent: {}.", choices=PRIORS)
    local_prior: str = _setting(
        "standard",
        "Density that scores the output of every part but the last while it is trained: learned or standard "
        "(Gaussians), or flow:WxK, a flow head of width W with at most K flow steps in each remaining block.",
    )
    precision: str = _setting(
        "float32",
        "Precision of the coupling networks: {}; everything else is float32.",
        choices=PRECISIONS,
    )
    parts: str | int | Sequence[int] = _setting(
        "1",
        "1, by_block:N, across_block:N, balanced:N (the costliest part costs as little as possible; "
        "balanced:N@1,0.5,… for devices of those speeds), or flow steps per part such as 16,32,48.",
    )
    seed: int = 0
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises ConfigError for a model that cannot be built."""
        _check_each(self)
        if self.classes and self.top_prior != "learned":
            raise ConfigError(
                "classes have learned priors, so top_prior must be learned. "
                f"Received: top_prior={self.top_prior!r}, {len(self.classes)} classes"
            )
        _in_range(self, "seed", 0, MOST)
        _require(max(self.image_shape) <= MOST_SIDE, self, "image_shape", f"{MOST_SIDE} or less")
        read_scale(self.scale)
        _ = self.cuts, self.head_size

    @property
    def cuts(self) -> Cuts:
        """What `parts` says; `partition.flow_step_counts` gives the flow steps of each part."""
        return read_cuts(self.parts, self.num_blocks, self.flow_steps)

    @property
    def num_parts(self) -> int:
        """Number of parts n."""
        return self.cuts.num_parts

    @property
    def head_size(self) -> HeadSize | None:
        """Size of the flow head of every part but the last; None if a Gaussian scores their outputs."""
        return read_local_prior(self.local_prior)

    @property
    def coupling_config(self) -> CouplingConfig:
        """The settings of every coupling."""
        network_dtype = None if self.precision == "float32" else self.precision
        return CouplingConfig(self.width, self.coupling, self.scale, self.norm, network_dtype)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Schedule of epochs and optimisation.

    The rates may also be given as numbers: `learning_rate=1e-3` is `"1e-3"`, and `learning_rate=(1e-3, 2e-3)`
    is `"1e-3,2e-3"`.
    """

    schedule: str = _setting("end_to_end", "{}.", choices=SCHEDULES)
    part_epochs: int = _setting(60, "Epochs in parts, as the schedule says.", most=MOST_EPOCHS)
    finetune_epochs: int = _setting(30, "End-to-end epochs that follow.", most=MOST_EPOCHS)
    period: int = _setting(1, "Epochs a part keeps its turn in the alternating schedule.", least=1, most=MOST)
    optimizer: str = _setting("adamax", "{}; one for each part.", choices=OPTIMIZERS)
    beta_2: str | float = _setting(
        "0.999", "Second-moment decay of adamax and adam, or oai: 1 − 1/(steps per epoch)."
    )
    learning_rate: str | float | Sequence[float] = _setting(
        "1e-1", "One rate for all parts, or one rate per part, comma-separated."
    )
    rate_scaling: str = _setting(
        "size",
        "size: the rate of each weight follows the width and the number of flow steps, so that one rate of "
        "adamax or adam suits models of all sizes; none: every weight has the rate.",
        choices=RATE_SCALINGS,
        before="none",
    )
    rate_schedule: str = _setting("cosine", "{}, over a part's own steps.", choices=RATE_SCHEDULES)
    warmup_steps: int = _setting(100, "Steps over which a part's rate rises linearly from 0.", most=MOST)
    clip_norm: float = _setting(1.0, "Largest global norm of the gradients; 0 does not clip.")
    max_skipped_steps: int = _setting(
        10,
        "Steps in a row that are skipped if their loss or a gradient's norm is not finite; one more is a "
        "divergence, see on_divergence.",
        most=MOST,
        before=0,
        may_differ=True,
    )
    on_divergence: str = _setting(
        "recover",
        "When training diverges: recover (go back to the last good checkpoint and halve the rate of the part "
        "at fault, a few times) or stop.",
        choices=ON_DIVERGENCE,
        before="stop",
        may_differ=True,
    )
    ema: float = _setting(
        0.0,
        "Decay of a moving average of each part's weights per step, such as 0.99; evaluations, samples and "
        "the export use the averages. 0: none.",
    )
    finetune_learning_rate: str | float | Sequence[float] = _setting(
        "", "Rate(s) of the finetune_epochs, without warm-up; empty goes on as before."
    )
    part_delay: int = _setting(
        0,
        "In simultaneous epochs under part_parallel: how many steps a batch waits between two parts, so "
        "that all parts work at the same time.",
        most=MOST,
        may_differ=True,
    )
    batch_size: int = _setting(8, "Images per step, over all replicas.", least=1, most=MOST)
    reversible: bool = _setting(
        False, "Recompute activations from outputs instead of keeping them: less memory, more time."
    )
    cache_prefix: bool = _setting(
        False, "Evaluate the parts before the trained one once per turn of several epochs; see period."
    )

    def __post_init__(self):
        """Raises ConfigError for values that cannot be trained with."""
        _check_each(self)
        _require(
            self.part_epochs + self.finetune_epochs >= 1,
            self,
            "part_epochs",
            "at least one epoch in part_epochs + finetune_epochs",
        )
        _require(math.isfinite(self.clip_norm) and self.clip_norm >= 0, self, "clip_norm", "0 or more")
        _require(0 <= self.ema < 1, self, "ema", "0, or a number below 1")
        if self.beta_2 != "oai":
            _require(0 < _number(self, "beta_2") < 1, self, "beta_2", "oai, or a number between 0 and 1")
        self.learning_rates(1, any_count=True)
        self.finetune_learning_rates(1, any_count=True)

    def learning_rates(self, num_parts: int, *, any_count: bool = False) -> tuple[float, ...]:
        """Returns the rate of each part; raises ConfigError unless there is one rate, or one per part."""
        return self._rates("learning_rate", num_parts, any_count)

    def finetune_learning_rates(self, num_parts: int, *, any_count: bool = False) -> tuple[float, ...] | None:
        """Returns each part's rate in the end-to-end epochs, or None if the rates go on as before."""
        if not self.finetune_learning_rate:
            return None
        return self._rates("finetune_learning_rate", num_parts, any_count)

    def _rates(self, name: str, num_parts: int, any_count: bool) -> tuple[float, ...]:
        pieces = getattr(self, name).split(",")
        try:
            rates = tuple(float(piece) for piece in pieces)
        except ValueError:
            rates = (math.nan,)
        _require(
            all(math.isfinite(rate) and rate > 0 for rate in rates),
            self,
            name,
            "one positive rate, or one per part, comma-separated",
        )
        if len(rates) == 1:
            return rates * num_parts
        if not any_count and len(rates) != num_parts:
            raise ConfigError(
                f"{name} needs one rate, or one for each of the {num_parts} parts. "
                f"Received: {name}={getattr(self, name)!r}, {len(rates)} rates"
            )
        return rates


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run: where it lives, and everything it is made of.

    `left_open` names the settings that nobody gave: the run chooses them when it has read its data, as
    `glow_tf.run.suited` says. Until then they have their defaults.
    """

    workdir: str | os.PathLike = _setting(  # noqa: RUF009
        "", "Folder of the run: history, checkpoints, logs, samples, export.", may_differ=True
    )
    seed: int = _setting(0, "The one seed from which everything random follows.", most=MOST)
    init_from: str | os.PathLike = _setting(  # noqa: RUF009
        "",
        "Start from the weights of a workdir, a .keras file or a preset; the run has its own data and "
        "schedule. On the command line the model's settings stand in the place of those in flagfiles.",
    )
    strategy: str = _setting(
        "auto",
        "auto, one_device, mirrored (every device trains on a slice of the batch), multi_worker (every "
        "process listed in TF_CONFIG does), or part_parallel (every part on its own device).",
        choices=STRATEGIES,
        may_differ=True,
    )
    virtual_devices: int = _setting(
        0,
        "Logical CPU devices, to try a strategy without GPUs; 0 is off.",
        most=MOST_DEVICES,
        may_differ=True,
    )
    part_devices: str | Sequence[str] = _setting(
        "",
        "Device of each part under part_parallel, comma-separated; empty: device k for part k.",
        may_differ=True,
    )
    insecure_network: bool = _setting(
        False,
        "Let processes have addresses that are not private, although they neither encrypt nor ask for "
        "passwords.",
        may_differ=True,
    )
    jit_compile: str = _setting(
        "auto",
        "Compile training steps with XLA: on, off, or auto (on where there is a GPU).",
        choices=COMPILERS,
        may_differ=True,
    )
    streams: int = _setting(
        0,
        "Pieces of a batch that run side by side, one per core; 0: as many as pay, 1: TensorFlow's own way.",
        most=MOST_DEVICES,
        may_differ=True,
    )
    tensorboard: bool = _setting(True, "Write TensorBoard logs.", may_differ=True)
    sample_every: int = _setting(
        1,
        "Epochs between sample grids, which the last epoch has too; 0 is never.",
        most=MOST,
        may_differ=True,
    )
    export: bool = _setting(True, "Write a SavedModel at the end.", may_differ=True)
    checkpoint_minutes: float = _setting(
        0.0,
        "Minutes between checkpoints within an epoch, besides the one after it; 0: none within.",
        may_differ=True,
    )
    conditional: bool = _setting(
        False,
        "Give the top latent a prior for each class of the data, so that images of a class can be drawn.",
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    left_open: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises ConfigError for settings that do not fit together."""
        _check_each(self)
        _require(self.workdir.strip() != "", self, "workdir", "the folder of the run")
        minutes = self.checkpoint_minutes
        _require(0 <= minutes < math.inf, self, "checkpoint_minutes", "0 or a positive number")
        if minutes and self.strategy == "multi_worker":
            raise ConfigError(
                "checkpoint_minutes needs another strategy than multi_worker, whose runs save only at the "
                f"ends of epochs. Received: checkpoint_minutes={minutes}, strategy='multi_worker'"
            )
        self._check_size_and_batch()
        if self.conditional and self.model.top_prior != "learned":
            raise ConfigError(
                "conditional needs top_prior=learned: the priors of the classes are learned. "
                f"Received: conditional=True, top_prior={self.model.top_prior!r}"
            )
        num_parts = self.model.num_parts
        self.train.learning_rates(num_parts)
        self.train.finetune_learning_rates(num_parts)
        devices = [device for device in self.part_devices.split(",") if device]
        if devices and (self.strategy != "part_parallel" or len(devices) != num_parts):
            raise ConfigError(
                f"part_devices needs strategy=part_parallel and a device for each of the {num_parts} parts. "
                f"Received: part_devices={self.part_devices!r}, strategy={self.strategy!r}"
            )
        if self.train.part_delay and (
            self.strategy != "part_parallel" or self.train.schedule != "simultaneous"
        ):
            raise ConfigError(
                "part_delay needs strategy=part_parallel and schedule=simultaneous. Received: part_delay="
                f"{self.train.part_delay}, strategy={self.strategy!r}, schedule={self.train.schedule!r}"
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

    def _check_size_and_batch(self) -> None:
        """Raises ConfigError for what would otherwise be found only after all images have been read."""
        if (size := self.data.image_size) and "num_blocks" not in self.left_open:
            check_divisible((size, size), self.model.num_blocks, f"image_size={size}")
        if examples := self.data.train_examples:
            check_batch(examples, self.train.batch_size)

    @property
    def compiles(self) -> bool | str:
        """Whether training steps are compiled with XLA: True, False or `auto`, as `PartsTrainer` takes it."""
        return {"on": True, "off": False}.get(self.jit_compile, self.jit_compile)

    @classmethod
    def from_settings(cls, settings: dict[str, Any], left_open: Sequence[str] = ()) -> RunConfig:
        """Builds the whole from one flat mapping of setting to value, as flags give it.

        Raises:
          ConfigError: a name is not a setting, or a value cannot be run.
        """
        if unknown := set(settings) - {setting.name for setting in all_settings()}:
            raise ConfigError(f"these are not settings of a run. Received: {', '.join(sorted(unknown))}")
        groups = {}
        for group, config_class in GROUPS.items():
            names = [f.name for f in settings_of(config_class)]
            groups[group] = config_class(**{n: settings[n] for n in names if n in settings})
        own = {f.name: settings[f.name] for f in settings_of(cls) if f.name in settings}
        return cls(**own, **groups, left_open=tuple(left_open))

    def to_settings(self) -> dict[str, Any]:
        """The flat mapping from which `from_settings` builds the same run."""
        objects = (self, *(getattr(self, group) for group in GROUPS))
        return {f.name: getattr(o, f.name) for o in objects for f in settings_of(type(o))}


GROUPS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}


def settings_of(config_class: type) -> list[dataclasses.Field]:
    """The fields of a config class that are settings (flags), in order."""
    return [f for f in dataclasses.fields(config_class) if "help" in f.metadata]


def all_settings() -> list[dataclasses.Field]:
    """Every setting of a run, in the order of the help page."""
    return [f for c in (RunConfig, *GROUPS.values()) for f in settings_of(c)]


# A resumed run may have other values of these; all other settings must be equal.
MAY_DIFFER = frozenset(setting.name for setting in all_settings() if setting.metadata["may_differ"])


# Values


def read_scale(scale: str) -> tuple[str, float | None]:
    """Reads the `--scale` notation: the kind and the soft bound of the log-scale; None for `sigmoid`.

    Raises:
      ConfigError: the kind is unknown, or the bound is not a number above 0, up to `MOST_LOG_SCALE`.
    """
    if scale in SCALES:
        return scale, SCALES[scale]
    kind, _, argument = scale.partition(":")
    try:
        bound = float(argument)
    except ValueError:
        bound = 0.0
    if kind != "tanh" or not 0 < bound <= MOST_LOG_SCALE:
        raise ConfigError(
            f"scale must be one of {', '.join(SCALES)}, or tanh:B with a bound B of the log-scale, above 0 "
            f"and up to {MOST_LOG_SCALE}, such as tanh:1. Received: {scale=}"
        )
    return kind, bound


def check_divisible(image_shape: Sequence[int], num_blocks: int, received: str = "") -> None:
    """Raises ConfigError, naming the nearest sizes that fit, unless H and W divide by 2^num_blocks.

    Args:
      image_shape: H, W and whatever follows.
      num_blocks: how often the flow halves both.
      received: what the message says was received; the image's sides by default.
    """
    multiple = 2**num_blocks
    height, width = image_shape[:2]
    if height % multiple or width % multiple:
        sides = {side for side in (height, width) if side % multiple}
        nearest = {s // multiple * multiple for s in sides} | {-(-s // multiple) * multiple for s in sides}
        fewer = min((side & -side).bit_length() - 1 for side in (height, width))
        instead = f", or --num_blocks={fewer}" if fewer else ""
        raise ConfigError(
            f"num_blocks={num_blocks} halves the image {num_blocks} times, so height and width must be "
            f"multiples of {multiple}; the nearest that are: {', '.join(map(str, sorted(nearest - {0})))} "
            f"(--image_size resizes){instead}. Received: {received or f'image of {height}×{width}'}"
        )


def check_batch(examples: int, batch_size: int) -> None:
    """Raises ConfigError if the training images do not fill one batch."""
    if batch_size > examples:
        raise ConfigError(
            f"batch_size must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )


def _require(condition: bool, config: Any, name: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {expected}. Received: {name}={getattr(config, name)!r:.100}")


def _check_each(config: Any) -> None:
    """Checks the type of every field, and what the settings say of their values."""
    check_types(config)
    for setting in settings_of(type(config)):
        if setting.metadata["choices"]:
            _one_of(config, setting.name, setting.metadata["choices"])
        if setting.metadata["most"] is not None:
            _in_range(config, setting.name, setting.metadata["least"], setting.metadata["most"])


def _in_range(config: Any, name: str, least: int, most: int) -> None:
    expected = f"an integer from {least} to {most}" if least else f"0 or a positive integer up to {most}"
    _require(least <= getattr(config, name) <= most, config, name, expected)


def _one_of(config: Any, name: str, choices: Collection[str]) -> None:
    _require(getattr(config, name) in choices, config, name, f"one of {', '.join(choices)}")


def _number(config: Any, name: str) -> float:
    try:
        return float(getattr(config, name))
    except ValueError:
        return math.nan
