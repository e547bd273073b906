"""Makes images of the latents that `glow-tf encode` wrote.

    glow-tf decode --model=digits --latents=latents.npz --output=decoded

It writes a PNG for each image into the folder --output, under the name that it had, and all of them as
images.npy, uint8 [N, H, W, C]. Of data that make no pictures it writes images.npy alone. What the model was
given with each image is in the file from encode, too; another --condition may stand in its place.
"""

import collections
import pathlib

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.commands.condition_files import arrays_of, condition_of
from glow_tf.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="decoded")
    about = "A .npz file from `glow-tf encode`, or a .npy file: float [N, D]."
    parsing.define(values, latents=("latents.npz", about), condition=model_flags.CONDITION)


def main(values: flags.FlagValues) -> None:
    eps, names, condition = _read(pathlib.Path(values.latents))
    folder = model_flags.output_folder(values)
    model_flags.check_file(values, "output", folder / "images.npy")
    from glow_tf.data.progress import with_progress
    from glow_tf.run import pictures
    from glow_tf.use import decode

    model = model_flags.model_of(values)
    if condition is None or values.condition:
        condition = condition_of(values, model)
    images = decode(model, eps, condition)
    model_flags.write_array(folder / "images.npy", images)
    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        print(f"{folder / 'images.npy'}: {len(images)} examples. {model_flags.NO_PICTURES}")
        return
    for image, name in with_progress(zip(images, names, strict=True), len(images), "Writing images"):
        model_flags.write(folder / f"{name}.png", pictures.png(image))
    print(f"{folder}: {len(images)} images and images.npy")


def _read(path: pathlib.Path) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """Returns the latents of a file, a file name for each image, and what is given with it, if anything."""
    received = f"Received: latents={str(path)!r}"
    if not path.is_file():
        raise ConfigError(f"latents must be a file. {received}")
    try:
        loaded = arrays_of(path)
        archive = isinstance(loaded, dict)
        eps = np.asarray(loaded["eps"] if archive else loaded)
        names = [str(name) for name in np.asarray(loaded["names"]).ravel()] if archive else []
        condition = loaded.get("condition") if archive else None
    except ConfigError:
        raise
    # NumPy's and zipfile's readers raise almost any exception at damaged files.
    except Exception as error:
        raise ConfigError(
            f"latents must be a .npz file from `glow-tf encode`, or a .npy file. {received}, {error}"
        ) from None
    if eps.ndim != 2 or eps.dtype.kind != "f" or not np.isfinite(eps).all():
        raise ConfigError(
            f"latents must be finite floats of shape (N, D). {received} with {eps.dtype.name} of shape "
            f"{eps.shape}"
        )
    if not archive:
        return eps, [f"{place:06d}" for place in range(len(eps))], None
    if len(names) != len(eps) or not all(map(_stays_within, names)):
        raise ConfigError(
            f"there must be a name for each of {len(eps)} images, and each must stay within the output's "
            f"folder. {received} with {len(names)} names"
        )
    return eps, _distinct(names), condition


def _stays_within(name: str) -> bool:
    path = pathlib.PurePath(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _distinct(names: list[str]) -> list[str]:
    """Returns names without suffix; those that would be the same keep theirs, and then get a number."""
    stems = [str(pathlib.PurePath(name).with_suffix("")) for name in names]
    counts = collections.Counter(stem.casefold() for stem in stems)  # some systems do not tell A from a
    found: dict[str, str] = {}
    for stem, name in zip(stems, names, strict=True):
        own = wanted = stem if counts[stem.casefold()] == 1 else name
        number = 1
        while own.casefold() in found:
            number += 1
            own = f"{wanted}_{number}"
        found[own.casefold()] = own
    return list(found.values())
