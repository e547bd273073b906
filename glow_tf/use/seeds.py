"""Seeds of what is drawn in several batches."""

import numpy as np


def seed_of(seed: int, place: int) -> int:
    """Returns the seed of a batch, or of a draw, counted from 0.

    The first has the seed itself, so that one batch alone is what the seed draws. Those of the others share
    nothing with the batches of another seed, such as the next one.
    """
    return seed if place == 0 else int(np.random.SeedSequence([seed, place]).generate_state(1)[0] >> 1)
