"""The measured rates of one device, from which forecasts for similar devices are made. Pure Python."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

from glow_tf.errors import ConfigError
from glow_tf.text_files import parse_json, read_text


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Seconds per image, measured on one device.

    Attributes:
      machine: the device's name.
      forward: for each block (from 1), seconds per image of one flow step, forward pass alone.
      both: the same with the backward pass.
      rest: seconds per image that a training step spends outside flow steps.
    """

    machine: str
    forward: Mapping[int, float]
    both: Mapping[int, float]
    rest: float

    def to_json(self) -> str:
        """Returns it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Reads what `to_json` returned; of other text ValueError, KeyError, TypeError or AttributeError."""
        found = parse_json(text)
        for name in ("forward", "both"):
            found[name] = {int(block): float(seconds) for block, seconds in found[name].items()}
        found["rest"] = float(found["rest"])
        for seconds in (*found["forward"].values(), *found["both"].values(), found["rest"]):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"seconds must not be negative: {seconds}")
        return cls(**found)


def read_calibration(path: str | pathlib.Path) -> Calibration:
    """Reads a file that `glow-tf plan --calibrate` wrote.

    Raises:
      ConfigError: it is another file.
      OSError: it cannot be read.
    """
    try:
        return Calibration.from_json(read_text(pathlib.Path(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "calibration must be a file that `glow-tf plan --calibrate` wrote. "
            f"Received: calibration={str(path)!r}, {type(error).__name__}: {error}"
        ) from None
