"""Settings that suit the data, for a run without a flagfile. Pure Python: no TensorFlow."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from glow_tf.architectures import Levels, architecture, design_of
from glow_tf.config import MOST_BLOCKS, SAME_FUNCTION, ModelConfig, RunConfig, settings_of

SETTINGS = ("n_bits", "num_blocks", "flow_steps", "width", "part_epochs", "finetune_epochs")
SETTINGS += ("validation_examples",)
# As in configs/own_images.cfg: what won at equal time.
LEVELS = {"architecture": "levels", **Levels.suited}
OF_A_GLOW = ("parts", "local_prior", "split_prior", "top_prior", "schedule", "period", "objective")
OF_A_GLOW += ("part_devices", "reversible", "cache_prefix")
# As in the configs of the small Glows of CIFAR-10 (3 × 8 flow steps) and of the digits (1 × 12).
LEAST_SIDE = 4  # of the last block's squeezed images
WIDTH = 96
# Channels of the images → the preset that a run starts from.
PRESETS = {3: "photographs", 1: "photographs_grey"}
# What follows the number of images where a run starts from a prior; and, besides, all settings of its model.
TUNED = ("validation_examples", "schedule", "part_epochs", "finetune_epochs", "learning_rate")
TUNED += ("rate_scaling", "warmup_steps", "batch_size", "ema", "patience", "augment")
FOLLOWS = (*(s.name for s in settings_of(ModelConfig) if s.name not in SAME_FUNCTION), *TUNED)
FEW = 80  # images, of which a tenth would be fewer than `LEAST_HELD_OUT`
LEAST_HELD_OUT, MOST_HELD_OUT = 8, 1000
FEWEST = 20  # images of which some are held out
MANY = 1000  # images, which need no mirror images beside them
SEEN = 32_000  # images in all epochs together: ten epochs of 3,200, which take minutes at 32 × 32
FEWEST_EPOCHS, MOST_EPOCHS = 2, 50
# An average that begins with the prior and remembers 200 steps: of few images it holds on to the prior, as
# a mean of both models' weights does (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
HOLDING = 0.995


def form(settings: Mapping[str, Any], given: Set[str]) -> dict[str, Any]:
    """Returns the settings of `LEVELS` that a run without a flagfile has; none where it trains a Glow.

    That is where `--architecture=glow` is given, or no architecture and one of `OF_A_GLOW`, or real data, on
    which nothing was compared.
    """
    has_bytes = settings["data"] == "bytes"
    takes_levels = has_bytes and given.isdisjoint(OF_A_GLOW)
    if settings["architecture"] != "levels" if "architecture" in given else not takes_levels:
        return {}
    may_equalize = has_bytes and settings["n_bits"] <= 8
    return {n: v for n, v in LEVELS.items() if n not in given and (may_equalize or n != "equalize")}


def bits_of(levels: int) -> int:
    """Returns how many bits the levels of images need, which are combined by a bitwise or."""
    lowest = (levels | 128) & -(levels | 128)
    return 9 - lowest.bit_length()


def held_out(examples: int) -> int:
    """Returns how many of the training images choose the best epoch."""
    share = examples // 4 if examples < FEW else examples // 10
    return min(share, LEAST_HELD_OUT if examples < FEW else MOST_HELD_OUT)


def tuned(config: RunConfig, examples: int) -> dict[str, Any]:
    """Returns the settings `TUNED`, as suits a run that starts from a prior; those that are given stay.

    Fewer images are seen more often, and at a lower rate: 160 images 20 times, 3,200 images 8 times.
    """
    settings = config.to_settings()
    found = {name: settings[name] for name in TUNED}

    def choose(name: str, value: Any) -> Any:
        found[name] = value if name in config.follows else found[name]
        return found[name]

    validation = choose("validation_examples", held_out(examples))
    trained = max(examples - validation, 1)
    choose("schedule", "simultaneous")
    epochs = min(max(round(20 * (160 / examples) ** 0.3), FEWEST_EPOCHS), MOST_EPOCHS)
    end_to_end = choose("finetune_epochs", 0)
    epochs = end_to_end + choose("part_epochs", 0 if end_to_end else epochs)
    choose("learning_rate", "5e-3" if examples < FEW else "1e-2" if examples < MANY else "2e-2")
    choose("rate_scaling", "size")
    batch = choose("batch_size", min(4 if examples < FEW else 8, trained))
    choose("warmup_steps", min(100, epochs * (trained // batch) // 3))
    choose("ema", HOLDING)
    choose("augment", "flip" if examples < MANY else "none")
    choose("patience", max(-(-epochs // 3), 2) if validation else 0)
    return found


def chosen(config: RunConfig, image_shape: Sequence[int], examples: int, levels: int) -> dict[str, int]:
    """Returns the settings of `config.left_open` as they suit the data, given all settings that are not.

    - `n_bits`: those that the levels use; the digits' are multiples of 8, so 5. Real data have none.
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

    The images are (H, W, C), with these `levels`, all combined by a bitwise or; `examples` are for training.
    """
    settings: dict[str, Any] = config.to_settings()
    found: dict[str, int] = {}

    def choose(name: str, value: int) -> None:
        if name in config.left_open:
            found[name] = settings[name] = value

    if not config.model.is_real:
        choose("n_bits", bits_of(levels))
    blocks, sides = 1, [*image_shape[:2], config.data.crop or image_shape[0]]
    kind = architecture(config.model.architecture)
    takes_odd = kind.any_size and not config.data.crop
    while blocks < MOST_BLOCKS and all(
        (takes_odd or side % 2 ** (blocks + 1) == 0) and side >> (blocks + 1) >= LEAST_SIDE for side in sides
    ):
        blocks += 1
    choose("num_blocks", blocks)
    choose("flow_steps", kind.suited_flow_steps(settings["num_blocks"]))
    choose("width", WIDTH)
    epochs = min(max(-(-SEEN // examples), FEWEST_EPOCHS), MOST_EPOCHS)
    has_one_kind = config.train.schedule == "end_to_end" or kind.separable
    in_parts = epochs if has_one_kind else max(2 * epochs // 5, 1)
    shares = {"part_epochs": in_parts, "finetune_epochs": epochs - in_parts}
    if given := [name for name in shares if name not in config.left_open]:
        shares = dict.fromkeys(shares, 0 if any(settings[name] for name in given) else epochs)
    if shares["part_epochs"]:
        shares["part_epochs"] = max(shares["part_epochs"], _in_turns(RunConfig.from_settings(settings)))
    for name, share in shares.items():
        choose(name, share)
    few = examples < FEWEST or config.train.only_part
    choose("validation_examples", 0 if few else held_out(examples))
    return found


def _in_turns(config: RunConfig) -> int:
    """Returns the epochs in which each part has had its turn, long enough for its prefix cache."""
    train = config.train
    if train.only_part or train.schedule not in ("sequential", "alternating"):
        return 0
    turn = train.period if train.schedule == "alternating" else 1 + train.cache_prefix
    return turn * design_of(config.model).num_parts


def suited(config: RunConfig, image_shape: Sequence[int], examples: int, levels: int) -> RunConfig:
    """Returns a run with nothing left open, and prints its `form` and what was `chosen`."""
    settings = config.to_settings()
    found = {name: settings[name] for name in LEVELS if name in config.left_open}
    found |= chosen(config, image_shape, examples, levels)
    flags = " ".join(f"--{name}={value}" for name, value in found.items())
    shape = "×".join(map(str, image_shape))
    said = f"No flagfile: {flags}, which suits {examples} images of {shape}. Type others, or take a config: "
    if found:
        print(f"{said}--flagfile=NAME.", flush=True)
    return RunConfig.from_settings(settings | found)
