"""How the learning rate of a weight follows the size of the model.

Adamax and Adam move every weight by about the full rate in each step, whatever the size of its gradient.
Two kinds of sums grow with the model, and a rate that suits a small model would be too high for a large one:

- A convolution of `width` channels adds up that many moved weights, and all moves point the same way. So the
  rate of its kernel is divided by the width (as in µP, Yang et al. 2022, https://arxiv.org/abs/2203.03466,
  table 3, column Adam).
- The flow steps follow one another, and each may stretch what the one before has stretched. So the rates of
  all weights that stretch or shift the flow itself are divided by the number of flow steps: ActNorm, the 1×1
  convolution, and the last convolution of a coupling's network. The layers inside the networks do not act on
  the flow directly and keep their rate.

The result is 1 for a weight that is in neither sum. `REFERENCE_WIDTH` and `REFERENCE_STEPS` only fix the unit
of the rate.
"""

import keras

REFERENCE_WIDTH = 32
REFERENCE_STEPS = 3


def scales_with(variable: keras.Variable, *, width: int = 0, flow_steps: bool = False) -> None:
    """Notes on a variable what its rate is divided by.

    These are the `width` hidden channels that it adds up, 0 if it adds up something else, and, if it
    stretches or shifts what runs through the flow, the number of flow steps.
    """
    variable.scales_with = (width, flow_steps)


def rate_factor(variable: keras.Variable, flow_steps: int) -> float:
    """Returns what the rate of a variable is multiplied by in a model of `flow_steps` flow steps in all."""
    width, in_flow = getattr(variable, "scales_with", (0, False))
    factor = REFERENCE_WIDTH / width if width else 1.0
    return factor * REFERENCE_STEPS / flow_steps if in_flow else factor
