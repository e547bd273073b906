"""Makes images of the latents that `glow-tf encode` wrote.

    glow-tf decode --model=digits --latents=latents.npz --output=decoded

It writes a PNG for each image into the folder --output, under the name that it had, and all of them as
images.npy, uint8 [N, H, W, C], where they have one size. Of data that make no pictures it writes arrays
alone. Images of other sizes than the model's come back at the sizes that they had. What the model was
given with each image is in the file from encode, too; another --condition may stand in its place.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.commands.input_flags import arrays_of, condition_of
from glow_tf.config import MOST_SIDE
from glow_tf.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="decoded")
    about = "A .npz file from `glow-tf encode`, or a .npy file: float [N, D]."
    parsing.define(values, latents=("latents.npz", about), condition=model_flags.CONDITION)


def main(values: flags.FlagValues) -> None:
    eps, names, condition, sizes = _read(pathlib.Path(values.latents))
    folder = model_flags.output_folder(values)
    model_flags.check_file(values, "output", folder / "images.npy")
    from glow_tf.core.progress import with_progress
    from glow_tf.run import pictures

    model = model_flags.model_of(values)
    if condition is None or values.condition:
        condition = condition_of(values, model)
    images = _decoded(values, model, eps, condition, sizes)
    is_one = len({image.shape for image in images}) <= 1
    if is_one:
        model_flags.write(folder / "images.npy", pictures.npy(np.asarray(images)))
    is_pictures = model.data_dtype == "uint8" and model.image_shape[-1] in (1, 3)
    if not is_pictures and is_one:
        print(f"{folder / 'images.npy'}: {len(images)} examples. {model_flags.NO_PICTURES}")
        return
    suffix, content = (".png", pictures.png) if is_pictures else (".npy", pictures.npy)
    for image, name in with_progress(zip(images, names, strict=True), len(images), "Writing images"):
        model_flags.write(folder / f"{name}{suffix}", content(image))
    print(f"{folder}: {len(images)} images{' and images.npy' if is_one else ''}")


def _decoded(
    values: flags.FlagValues, model: Any, eps: np.ndarray, condition: Any, sizes: np.ndarray | None
) -> Sequence[np.ndarray]:
    """Returns the image of each one's latents, of its size in `sizes` [N, 2]; None: the model's."""
    from glow_tf.use import decode
    from glow_tf.use.images import fitted

    if sizes is None:
        return decode(model, eps, condition)
    ends = np.cumsum(sizes.prod(axis=1) * model.image_shape[-1])
    if len(eps) != ends[-1]:
        raise ConfigError(
            f"there must be as many latents as the images have values, {ends[-1]}. "
            f"Received: latents={values.latents!r} with {len(eps)}"
        )
    pieces, found = np.split(eps, ends[:-1]), {}
    for size in dict.fromkeys(map(tuple, sizes.tolist())):
        places = np.flatnonzero((sizes == size).all(axis=1))
        own = decode(fitted(model, size), np.stack([pieces[k] for k in places]), condition)
        found |= zip(places.tolist(), own, strict=True)
    return [found[k] for k in range(len(sizes))]


def _read(path: pathlib.Path) -> tuple[np.ndarray, list[str], np.ndarray | None, np.ndarray | None]:
    """Returns latents, a file name for each image, what is given with it, and its size, if there are any."""
    received = f"Received: latents={str(path)!r}"
    if not path.is_file():
        raise ConfigError(f"latents must be a file. {received}")
    try:
        loaded = arrays_of(path)
        archive = loaded if isinstance(loaded, dict) else {}
        eps = np.asarray(archive["eps"] if archive else loaded)
        names = [str(name) for name in np.ravel(archive.get("names", ()))]
        condition, sizes = archive.get("condition"), archive.get("sizes")
        sizes = None if sizes is None else np.asarray(sizes).astype(np.int64).reshape(-1, 2)
    except ConfigError:
        raise
    # NumPy's and zipfile's readers raise almost any exception at damaged files.
    except Exception as error:
        raise ConfigError(
            f"latents must be a .npz file from `glow-tf encode`, or a .npy file. {received}, {error}"
        ) from None
    if eps.ndim != (2 if sizes is None else 1) or eps.dtype.kind != "f" or not np.isfinite(eps).all():
        raise ConfigError(
            "latents must be finite floats of shape (N, D), or where sizes are with them of one axis. "
            f"{received} with {eps.dtype.name} of shape {eps.shape}"
        )
    if not archive:
        return eps, [f"{place:06d}" for place in range(len(eps))], None, None
    count = len(eps) if sizes is None else len(sizes)
    if sizes is not None and not (count and 1 <= sizes.min() <= sizes.max() <= MOST_SIDE):
        raise ConfigError(f"sizes must be height and width of each image. {received}, whose sizes are not")
    if len(names) != count or not all(map(_stays_within, names)):
        raise ConfigError(
            f"there must be a name for each of {count} images, and each must stay within the output's "
            f"folder. {received} with {len(names)} names"
        )
    return eps, model_flags.distinct(names), condition, sizes


def _stays_within(name: str) -> bool:
    path = pathlib.PurePath(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
