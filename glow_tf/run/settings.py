"""The settings of a run, decided once: `resolve`. Pure Python: no TensorFlow, and no file is read.

A setting has its value from the first of these that gives one: what is typed; the run in the workdir, which
may have decided it; the model to start from; a flagfile; without one, what suits the images; its default.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from glow_tf.architectures import Levels, architecture, check_run, design_of
from glow_tf.config import ModelConfig, RunConfig, all_settings, settings_of
from glow_tf.config.choices import MOST_BLOCKS, PRIOR, SAME_FUNCTION
from glow_tf.core.errors import ConfigError
from glow_tf.training.tuned import FEWEST_EPOCHS, MOST_EPOCHS, TUNED, held_out, tuned

# Sources of settings.
TYPED, FOLLOWS, FLAGFILE, WORKDIR = "typed", "follows from what is typed", "flagfile", "this workdir"
START, IMAGES, DEFAULT = "the start model", "suits the images", "default"

SIZES = ("n_bits", "num_blocks", "flow_steps", "width", "part_epochs", "finetune_epochs")
SIZES += ("validation_examples",)
# As in configs/own_images.cfg: what won at equal time.
LEVELS = {"architecture": "levels", **Levels.suited}
OF_A_GLOW = ("parts", "local_prior", "split_prior", "top_prior", "schedule", "period", "objective")
OF_A_GLOW += ("part_devices", "reversible", "cache_prefix")
# As in the configs of the small Glows of CIFAR-10 (3 × 8 flow steps) and of the digits (1 × 12).
LEAST_SIDE = 4  # of the last block's squeezed images
WIDTH = 96
MODEL = tuple(setting.name for setting in settings_of(ModelConfig))
OF_MODELS = tuple(name for name in MODEL if name not in SAME_FUNCTION)  # what a start gives a run
FEWEST = 20  # images of which some are held out
SEEN = 32_000  # images in all epochs together: ten epochs of 3,200, which take minutes at 32 × 32
LIKELY_EXAMPLES = 1000
LIKELY_SIDES = tuple(2**k for k in (5, *range(1, 17)))  # of images of which nothing is known


class Start(NamedTuple):
    """A model to start from, and the `image_size` that it gives a run; None if it takes any."""

    name: str
    model: ModelConfig
    image_size: int | None = None


class Asked(NamedTuple):
    """What is known of a run before its images are read: settings by name, and models to start from.

    Attributes:
      typed: on the command line, or in Python, where it is every setting.
      flagfile: what flagfiles say; None without one.
      workdir: all settings of the run that the workdir holds; empty if there is none.
      start: the model that `init_from` names; None if it is not there.
      priors: channels of images → the prior for them, of those that are installed.
    """

    typed: Mapping[str, Any]
    flagfile: Mapping[str, Any] | None = None
    workdir: Mapping[str, Any] = {}
    start: Start | None = None
    priors: Mapping[int, Start] = {}

    @property
    def given(self) -> dict[str, Any]:
        """What is typed, or in a flagfile."""
        return {**(self.flagfile or {}), **self.typed}

    @property
    def init_from(self) -> str:
        """What the run shall start from: without a flagfile a prior, unless something else is typed."""
        return self.given.get("init_from", PRIOR if self.flagfile is None else "")

    @property
    def may_take_prior(self) -> bool:
        """Whether a new run starts from a prior, if nothing speaks against it."""
        return self.init_from == PRIOR and not self.workdir

    @property
    def needs_images(self) -> bool:
        """Whether the images have a say in what is decided."""
        is_open = self.flagfile is None and not {*LEVELS, *SIZES} <= self.typed.keys()
        return not self.workdir and bool(is_open or self.init_from == PRIOR or self.start)


class Images(NamedTuple):
    """What decisions need to know of images.

    Attributes:
      shape: (H, W, C).
      examples: for training, those included that are held out by `validation_examples`.
      used: all their values, combined by a bitwise or.
      condition_shape: of what is given with each image.
      unlike: why they are unlike what a prior has learned; empty if that is not known.
    """

    shape: tuple[int, int, int]
    examples: int
    used: int
    condition_shape: Any = ()
    unlike: str = ""


class Decided(NamedTuple):
    """A run, the source of each setting, and why it starts anew if it was to start from a prior."""

    config: RunConfig
    sources: Mapping[str, str]
    why_anew: str = ""

    @property
    def prior(self) -> str:
        """The prior that the run starts from; empty if it does not."""
        return self.config.init_from if self.sources["init_from"] == IMAGES else ""


class _Settings(dict[str, Any]):
    """Settings and their sources, while they are decided; what is typed stays."""

    def __init__(self, asked: Asked, images: Images):
        super().__init__({setting.name: setting.default for setting in all_settings()})
        self.facts = {"image_shape": images.shape, "condition_shape": images.condition_shape}
        self.sources = dict.fromkeys(self, DEFAULT)
        for values, source in ((asked.flagfile or {}, FLAGFILE), (asked.typed, TYPED)):
            own = values.items() - {("init_from", PRIOR)}  # which stands for a preset, or none
            self.take(dict(own), source)
        if "learning_rate" in asked.typed:  # alone, it is the rate of every weight, as in other programs
            self.take({"rate_scaling": asked.workdir.get("rate_scaling", "none")}, TYPED)

    def take(self, values: Mapping[str, Any], source: str) -> None:
        """Sets what is not typed, and does not follow from that."""
        kept = {n: value for n, value in values.items() if self.sources[n] not in (TYPED, FOLLOWS)}
        self.update(kept)
        self.sources = self.sources | dict.fromkeys(kept, source)

    def suit(self, **values: Any) -> None:
        """Sets what nothing has set before, as suits the images."""
        self.take({name: value for name, value in values.items() if name in self.left}, IMAGES)

    @property
    def left(self) -> set[str]:
        """What nothing has set."""
        return {name for name, source in self.sources.items() if source == DEFAULT}

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(**{name: self[name] for name in MODEL})

    def decided(self, why_anew: str = "") -> Decided:
        config = RunConfig.from_settings(self)
        model = dataclasses.replace(config.model, seed=config.seed, **self.facts)
        config = dataclasses.replace(config, model=model)
        check_run(config)
        return Decided(config, self.sources, why_anew)


def resolve(asked: Asked, images: Images) -> Decided:
    """Returns the run that is asked for, with all settings decided; ConfigError if it cannot be run.

    - A run in the workdir has decided already what was not typed.
    - A model to start from gives its own settings, over flagfiles, too, at the size of the images.
    - Without a flagfile the run has `LEVELS`, unless something asks for a Glow, and sizes and epochs that
      suit the images; it starts from a prior, unless another start is typed.
    - Where a run shall start from a prior, that gives its settings, and the number of images what is `TUNED`.
      If something speaks against it, the run starts anew.
    """
    found = _Settings(asked, images)
    may_start, is_open = asked.init_from == PRIOR, asked.flagfile is None
    if asked.workdir:
        names = {*LEVELS, *SIZES} if is_open else set()
        names |= {*OF_MODELS, *TUNED, "init_from"} if may_start else set()
        if asked.init_from and asked.workdir.get("init_from"):
            names |= {*OF_MODELS, "image_size"}
        found.take({name: value for name, value in asked.workdir.items() if name in names}, WORKDIR)
        return found.decided()
    if asked.start:
        found.take(_settings_of(_fitted(asked.start.model, images.shape)), START)
        if asked.start.image_size is not None:
            found.take({"image_size": asked.start.image_size}, START)
    if is_open:
        _decide_form(found)
    why_anew = ""
    if may_start and (prior := asked.priors.get(images.shape[-1])):
        try:
            return _from_prior(copy.copy(found), prior, images)
        except ConfigError as error:  # images are too small, or a setting that is typed does not fit
            why_anew = str(error)
    if is_open:
        if asked.start:  # its own run has held images out
            found.take({"validation_examples": found["validation_examples"]}, START)
        _decide_sizes(found, images)
    return found.decided(why_anew)


def likely(asked: Asked) -> Decided:
    """Returns what would be decided if the images suited the settings; ConfigError if no images do."""
    given = asked.given
    size, channels = given.get("image_size", 0), 3
    if asked.start:
        channels = asked.start.model.image_shape[-1]
        if asked.start.image_size is not None:
            size = asked.typed.get("image_size", asked.start.image_size)
    sides = [size] if size > 0 else LIKELY_SIDES if asked.needs_images else LIKELY_SIDES[:1]
    examples = max(given.get("train_examples", 0) or LIKELY_EXAMPLES, 1) + given.get("validation_examples", 0)
    errors = []
    for side in sides:
        try:
            return resolve(asked, Images((side, side, channels), examples, 255))
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _settings_of(model: ModelConfig) -> dict[str, Any]:
    return {name: getattr(model, name) for name in OF_MODELS}


def _fitted(model: ModelConfig, image_shape: tuple[int, int, int]) -> ModelConfig:
    """Returns a model's settings for images of another size, if it takes them."""
    design = design_of(model)
    return design.resized(image_shape)[0] if design.takes_also(image_shape) else model


# Without a flagfile


def _decide_form(found: _Settings) -> None:
    """Decides whether a run has `LEVELS`, and those numbers that follow from other settings.

    A Glow it is where `--architecture=glow` is given, or no architecture and one of `OF_A_GLOW`, or real
    data, on which nothing was compared.
    """
    if "architecture" in found.left and (found["data"] != "bytes" or not found.left.issuperset(OF_A_GLOW)):
        found.take({"architecture": "glow"}, FOLLOWS)
    if "architecture" in found.left or found["architecture"] == "levels":
        may_equalize = found["data"] == "bytes" and found["n_bits"] <= 8
        found.suit(**{name: value for name, value in LEVELS.items() if may_equalize or name != "equalize"})
    unknown = found.left & {"num_blocks", "flow_steps"}
    found.take(architecture(found["architecture"]).implied(found, unknown), FOLLOWS)


def bits_of(used: int) -> int:
    """Returns how many bits the values of images need, which are combined by a bitwise or."""
    lowest = (used | 128) & -(used | 128)
    return 9 - lowest.bit_length()


def _decide_sizes(found: _Settings, images: Images) -> None:
    """Decides what is left of `SIZES`, as suits the images.

    - `n_bits`: those that the values need; the digits' are multiples of 8, so 5. Real data have none.
    - `num_blocks`: how often all sides, a crop's too, can be halved, down to `LEAST_SIDE`: 8 → 1, 28 → 2,
      32 → 3, 64 → 4. A Glow's sides must be even each time.
    - `flow_steps`: about as many in all, whatever the number of blocks, so that the depth is the same; in
      levels, those of the finest.
    - `width`: the same for all. What an image costs follows the number of its pixels.
    - `part_epochs`, `finetune_epochs`: as many as show about `SEEN` images, end to end; in the schedules of
      a Glow's parts, 2 of 5 in parts, and enough for each part's turn. Where one of the two is given, the
      other is 0: nothing is added to it.
    - `validation_examples`: as a run from a prior holds out; of fewer than `FEWEST` none, and none where one
      part is trained alone.
    """
    kind, examples = architecture(found["architecture"]), images.examples - found["validation_examples"]
    if found["data"] != "real":
        found.suit(n_bits=bits_of(images.used))
    blocks, sides = 1, [*images.shape[:2], found["crop"] or images.shape[0]]
    takes_odd = kind.any_size and not found["crop"]
    while blocks < MOST_BLOCKS and all(
        (takes_odd or side % 2 ** (blocks + 1) == 0) and side >> (blocks + 1) >= LEAST_SIDE for side in sides
    ):
        blocks += 1
    found.suit(num_blocks=blocks)
    found.suit(flow_steps=kind.suited_flow_steps(max(found["num_blocks"], 1)), width=WIDTH)
    epochs = min(max(-(-SEEN // max(examples, 1)), FEWEST_EPOCHS), MOST_EPOCHS)
    has_one_kind = found["schedule"] == "end_to_end" or kind.separable
    in_parts = epochs if has_one_kind else max(2 * epochs // 5, 1)
    shares = {"part_epochs": in_parts, "finetune_epochs": epochs - in_parts}
    if given := shares.keys() - found.left:
        shares = dict.fromkeys(shares, 0 if any(found[name] for name in given) else epochs)
    if shares["part_epochs"]:
        shares["part_epochs"] = max(shares["part_epochs"], _epochs_of_turns(found))
    few = examples < FEWEST or found["only_part"]
    found.suit(**shares, validation_examples=0 if few else held_out(examples))


def _epochs_of_turns(found: _Settings) -> int:
    """Returns the epochs in which each part has had its turn, long enough for its prefix cache."""
    if found["only_part"] or found["schedule"] not in ("sequential", "alternating"):
        return 0
    turn = found["period"] if found["schedule"] == "alternating" else 1 + found["cache_prefix"]
    return turn * design_of(found.model).num_parts


# From a prior


def _from_prior(found: _Settings, prior: Start, images: Images) -> Decided:
    """Returns a run that starts from a prior; ConfigError, whose message says why, if it cannot."""
    model = _fitted(prior.model, images.shape)
    _check_prior(found, model, images)
    typed = {name: found[name] for name in TUNED if found.sources[name] == TYPED}
    found.take(_settings_of(model), START)
    found.take(tuned(typed, images.examples) | {"init_from": prior.name}, IMAGES)
    return found.decided()


def _check_prior(found: _Settings, prior: ModelConfig, images: Images) -> None:
    own, why = found.model, ""
    differing = [
        f"{name}={value} (this run: {found[name]})"
        for name, value in _settings_of(prior).items()
        if found.sources[name] in (TYPED, FOLLOWS) and found[name] != value
    ]
    if found["condition"]:
        why = "it does not know what is given with images"
    elif own.data_dtype != prior.data_dtype:
        why = f"it is of {prior.data_dtype}, and the data are {own.data_dtype}"
    elif differing:
        why = f"it has {', '.join(differing)}"
    elif (bits := bits_of(images.used)) != prior.n_bits:
        why = f"it is of {prior.n_bits} bits, and {bits} suffice for these images"
    if why := why or images.unlike:
        raise ConfigError(why)
