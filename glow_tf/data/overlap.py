"""Do held-out images show the very pixels of images to train on, as overlapping pieces of one picture do?"""

import numpy as np

WINDOW = 8  # pixels of a side
LEAST_VALUES = 16  # different ones in a window: flat regions and edges look alike in many images
HELD_OUT = 200  # images that are looked at, at most, and AT_ONCE values of them
TRAINING, AT_ONCE = 2**25, 2**22  # values of training images
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)  # odd


def overlapping(train: np.ndarray, held_out: np.ndarray) -> tuple[int, int]:
    """Returns how many held-out images show a window that is also in a training image, and of how many.

    Windows are compared by a hash at all places of a training image, so pieces of a picture that overlap by
    15 rows and columns are found. Pieces that were compressed or resized apart are not. Of many training
    images a part is looked at, evenly spread; see `share_looked_at`.

    Args:
      train: uint8 [N, H, W, C]. Images of another type, or smaller than a window, have no overlap.
      held_out: the same.
    """
    if not len(held_out):
        return 0, 0
    size = held_out[0].size
    step = max(AT_ONCE // size, 1)
    held_out = np.asarray(held_out[: min(HELD_OUT, step)])
    count, height, width, channels = held_out.shape
    if held_out.dtype != np.uint8 or min(height, width) < WINDOW:
        return 0, count
    rows, columns = height // WINDOW, width // WINDOW
    windows = held_out[:, : rows * WINDOW, : columns * WINDOW]
    windows = windows.reshape(count, rows, WINDOW, columns, WINDOW * channels).swapaxes(2, 3)
    windows = np.sort(windows.reshape(count, rows, columns, -1), axis=-1)
    is_rich = 1 + (np.diff(windows, axis=-1) > 0).sum(axis=-1) >= LEAST_VALUES
    own = _hashes(held_out)[:, ::WINDOW, ::WINDOW]
    wanted = np.unique(own[is_rich])
    found = np.zeros(len(wanted), bool)
    pieces = -(-min(len(train), TRAINING // size) // step) if len(wanted) else 0
    for piece in range(pieces):
        start = piece * len(train) // pieces
        there = _hashes(np.asarray(train[start : start + step])).ravel()
        places = np.searchsorted(wanted, there).clip(max=len(wanted) - 1)
        found[places[wanted[places] == there]] = True
    return int((np.isin(own, wanted[found]) & is_rich).any(axis=(1, 2)).sum()), count


def share_looked_at(train: np.ndarray) -> float:
    """Returns which share of the training images `overlapping` looks at, about."""
    return min(TRAINING / max(train.size, 1), 1.0)


def _hashes(images: np.ndarray) -> np.ndarray:
    """Returns a hash of the window at each place, modulo 2⁶⁴: [N, H, W, C] → [N, H − 7, W − 7]."""
    powers = FACTORS[:, np.newaxis] ** np.arange(max(WINDOW, images.shape[-1]), dtype=np.uint64)
    found = images @ powers[0, : images.shape[-1]]
    for axis in (1, 2):
        places = found.shape[axis] - WINDOW + 1
        found = sum(
            found[(slice(None),) * axis + (slice(k, k + places),)] * powers[axis, k] for k in range(WINDOW)
        )
    return found
