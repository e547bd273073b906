"""The measured rates of one device, from which forecasts for similar devices are made. Pure Python."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import parse_json, read_text

# What reading other text than rates raises.
NOT_RATES = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Seconds per image, measured on one device.

    Attributes:
      machine: the device's name.
      forward: for each block (from 1), seconds per image of one flow step, forward pass alone.
      both: the same with the backward pass.
      rest: seconds per image that a training step spends outside flow steps.
      model: the settings of the model that the rates depend on, as text; empty in files of release 0.4.
    """

    machine: str
    forward: Mapping[int, float]
    both: Mapping[int, float]
    rest: float
    model: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self, config: ModelConfig) -> None:
        """Raises ConfigError if the rates are of a model with other settings."""
        own = rates_settings(config)
        if other := {name: value for name, value in self.model.items() if own.get(name) != value}:
            measured = ", ".join(f"{name}={value}" for name, value in other.items())
            asked = ", ".join(f"{name}={own.get(name)}" for name in other)
            raise ConfigError(
                "the calibration must be of this model: measure it with the same flags. Received: rates of "
                f"{measured}, and a model of {asked}"
            )

    def to_json(self) -> str:
        """Returns it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Reads what `to_json` returned; of other text `NOT_RATES`."""
        found = parse_json(text)
        for name in ("forward", "both"):
            found[name] = {int(block): float(seconds) for block, seconds in found[name].items()}
        found["rest"] = float(found["rest"])
        found["model"] = {str(name): str(value) for name, value in found.get("model", {}).items()}
        for seconds in (*found["forward"].values(), *found["both"].values(), found["rest"]):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"seconds must not be negative: {seconds}")
        return cls(**found)


def rates_settings(config: ModelConfig) -> dict[str, str]:
    """Returns the settings of a model on which the rates of its flow steps depend."""
    names = ("image_shape", "width", "coupling", "scale", "norm", "permutation", "precision")
    return {name: str(getattr(config, name)) for name in names}


def read_calibration(path: str | pathlib.Path) -> Calibration:
    """Reads a file that `python -m lab.plan --calibrate` wrote.

    Raises:
      ConfigError: it is another file.
      OSError: it cannot be read.
    """
    try:
        return Calibration.from_json(read_text(pathlib.Path(path)))
    except NOT_RATES as error:
        raise ConfigError(
            "calibration must be a file that `python -m lab.plan --calibrate` wrote. "
            f"Received: calibration={str(path)!r}, {type(error).__name__}: {error}"
        ) from None
