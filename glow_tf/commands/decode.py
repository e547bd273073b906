"""Makes images of the latents that `glow-tf encode` wrote.

    glow-tf decode --model=digits --latents=latents.npz --output=decoded

It writes a PNG for each image into the folder --output, under the name that it had, and all of them as
images.npy, uint8 [N, H, W, C].
"""

from __future__ import annotations

import io
import pathlib

import numpy as np
from absl import flags

from glow_tf.commands import model_flags
from glow_tf.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    model_flags.define_model(values, output="decoded")
    flags.DEFINE_string(
        "latents",
        "latents.npz",
        "A .npz file from `glow-tf encode`, or a .npy file: float [N, D].",
        flag_values=values,
    )


def main(values: flags.FlagValues) -> None:
    """Decodes and writes."""
    eps, names = _read(pathlib.Path(values.latents))
    from glow_tf.data.progress import with_progress
    from glow_tf.run import pictures
    from glow_tf.run.workdir import write_atomically
    from glow_tf.use import decode

    images = decode(model_flags.model_of(values), eps)
    folder = pathlib.Path(values.output)
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in with_progress(zip(images, names, strict=True), len(images), "Writing images"):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pictures.png(image))
    array = io.BytesIO()
    np.save(array, images)
    write_atomically(folder / "images.npy", array.getvalue())
    print(f"{folder}: {len(images)} images and images.npy")


def _read(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Returns the latents of a file, and the name of each image without its suffix."""
    try:
        loaded = np.load(path)  # without pickle, which could run code
        eps = loaded["eps"] if path.suffix == ".npz" else loaded
        names = loaded["names"].tolist() if path.suffix == ".npz" else []
    except FileNotFoundError:
        raise ConfigError(f"latents must be a file. Received: latents={str(path)!r}") from None
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(
            f"latents must be a .npz file from `glow-tf encode`, or a .npy file. "
            f"Received: latents={str(path)!r}, {error}"
        ) from None
    names = [str(name) for name in names] or [f"{place:06d}" for place in range(len(eps))]
    if any(pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts for name in names):
        raise ConfigError(f"names of images must stay within the output's folder. Received: {str(path)!r}")
    return eps, [str(pathlib.PurePath(name).with_suffix("")) for name in names]
