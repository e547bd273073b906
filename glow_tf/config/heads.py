"""How `--local_prior` is written. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import re

from glow_tf.config.choices import PRIORS
from glow_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """The size of a flow head, the narrow flow that scores a part's output while the part is trained.

    Attributes:
      width: hidden channels of its coupling networks.
      flow_steps: the most flow steps that it has in each remaining block.
    """

    width: int
    flow_steps: int


def read_local_prior(local_prior: str) -> HeadSize | None:
    """Reads the `--local_prior` notation: `standard` or `learned`, Gaussians, or `flow:WxK`, a flow head.

    Returns the size of the head; None for a Gaussian. ConfigError if it is none of these, or W or K is 0.
    """
    if local_prior in PRIORS:
        return None
    found = re.fullmatch(r"flow:([0-9]{1,9})x([0-9]{1,9})", local_prior)
    size = HeadSize(*map(int, found.groups())) if found else HeadSize(0, 0)
    if not (size.width and size.flow_steps):
        raise ConfigError(
            f"local_prior must be {', '.join(PRIORS)} or flow:WxK with W and K from 1, such as flow:8x2. "
            f"Received: {local_prior=}"
        )
    return size
