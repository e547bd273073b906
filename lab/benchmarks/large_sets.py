r"""Does training go on with more images than memory holds? The process that trains has a limit.

    python -m lab.benchmarks.large_sets --kind=pictures --count=200000 --side=32 --folder=PATH \
        --csv=large_sets.csv
    python -m lab.benchmarks.large_sets --kind=array --count=51200 --side=256 --crop=64 --folder=PATH \
        --csv=large_sets.csv

`pictures` are as many PNG files, 1,000 in a folder; `array` is one .npy file. They are made, of smooth random
colours, unless they are there. Then a process loads them with an image cache and trains levels for `--steps`
steps of 8 images, in random order from all of them: once without its cache, once with it. What the process
allocates is limited to `--memory_gb` (RLIMIT_DATA); the pages of mapped files are the system's, and are given
back when memory is short. Last, batches are read alone, as training reads them.
"""

import concurrent.futures
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
from absl import flags
from PIL import Image

import glow_tf
from glow_tf import data
from glow_tf.commands import cli
from glow_tf.data.progress import with_progress
from lab.benchmarks.rows import added_to

COLUMNS = ("kind", "count", "side", "memory_gb", "what", "seconds", "found")
BATCH = 8
IN_A_FOLDER = 1000
READ = 20_000  # images that are read alone, at most


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_enum("kind", "pictures", ["pictures", "array"], "PNG files, or one .npy file.", **own)
    flags.DEFINE_integer("count", 2000, "Images.", lower_bound=100, **own)
    flags.DEFINE_integer("side", 32, "Of an image, in pixels.", lower_bound=16, **own)
    flags.DEFINE_integer("crop", 0, "Side of the squares that are trained on; 0: whole images.", **own)
    flags.DEFINE_integer("steps", 100, "Training steps.", lower_bound=1, **own)
    flags.DEFINE_integer("width", 128, "Of the levels.", lower_bound=1, **own)
    flags.DEFINE_float("memory_gb", 4.0, "What a run may allocate.", lower_bound=1.0, **own)
    flags.DEFINE_string("folder", None, "Where images and cache are kept.", required=True, **own)
    flags.DEFINE_string("csv", "large_sets.csv", "To add to: one row per measurement.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the images, trains on them, and writes what it took."""
    folder = pathlib.Path(given.folder)
    source = folder / f"{given.kind}_{given.count}_{given.side}"
    name = f"folder:{source}" if given.kind == "pictures" else f"file:{source}.npy"
    about = (given.kind, given.count, given.side, f"{given.memory_gb:g}")
    with added_to(given.csv, COLUMNS) as add:

        def found(what: str, seconds: float, text: str) -> None:
            add([*about, what, f"{seconds:.1f}", text])
            print(f"{what}: {seconds:.1f} s, {text}", flush=True)

        start = time.monotonic()
        (_make_pictures if given.kind == "pictures" else _make_array)(source, given.count, given.side)
        found("making the images", time.monotonic() - start, "")
        fresh = multiprocessing.get_context("spawn")
        for what in ("without the cache", "with the cache"):
            own = (name, str(folder / "cache"), given.memory_gb, given.crop, given.width, given.steps)
            with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                loading, steps, megabytes = pool.submit(_train, *own).result()
            found(f"loading {what}", loading, "")
            rate = f"{given.steps * BATCH / steps:.0f} images/s"
            found(f"training {what}", steps, f"{rate}; {megabytes} MB of the process's own at the end")
        images = data.load(glow_tf.DataConfig(dataset=name, image_cache=str(folder / "cache"))).train
        batches = data.training_batches(images, BATCH, 0, crop=_crop(given.crop))
        start, count = time.monotonic(), min(READ, len(images)) // BATCH
        for _ in batches.take(count):
            pass
        seconds = time.monotonic() - start
        found("batches alone", seconds, f"{count * BATCH / seconds:.0f} images/s")


def _images(count: int, side: int) -> Iterator[np.ndarray]:
    """Yields random images of four colours that pass into one another, uint8 [side, side, 3]."""
    rng = np.random.default_rng(0)
    way = np.linspace(0, 1, side)[:, None]
    for _ in with_progress(range(count), count, "Making images"):
        left, right = rng.integers(0, 256, (2, 2, 3))
        column = np.stack([(1 - way) * own[0] + way * own[1] for own in (left, right)], 1)
        yield ((1 - way.T[..., None]) * column[:, :1] + way.T[..., None] * column[:, 1:]).astype(np.uint8)


def _make_pictures(folder: pathlib.Path, count: int, side: int) -> None:
    if folder.exists():
        return
    for k, image in enumerate(_images(count, side)):
        below = folder / f"{k // IN_A_FOLDER:04d}"
        if k % IN_A_FOLDER == 0:
            below.mkdir(parents=True)
        Image.fromarray(image).save(below / f"{k:07d}.png", compress_level=1)


def _make_array(path: pathlib.Path, count: int, side: int) -> None:
    file = path.with_name(f"{path.name}.npy")
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(file, "w+", np.uint8, (count, side, side, 3))
    few = np.stack(list(_images(min(count, 512), side)))
    for start in range(0, count, len(few)):  # turned, so that no two blocks are equal
        array[start : start + len(few)] = (few[: count - start].astype(int) + start // len(few)) % 256
    array.flush()


def _crop(side: int) -> data.Crop:
    return data.Crop(side, 8) if side else data.Crop()


def _train(
    name: str, cache: str, memory_gb: float, crop: int, width: int, steps: int
) -> tuple[float, float, int]:
    """Loads the images and makes steps: the seconds of both, and the memory of its own at the end in MB."""
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start = time.monotonic()
    images = data.load(glow_tf.DataConfig(dataset=name, image_cache=cache)).train
    loaded = time.monotonic()
    batches = data.training_batches(images, BATCH, 0, crop=_crop(crop))
    side = crop or images.shape[1]
    config = glow_tf.ModelConfig((side, side, 3), architecture="levels", flow_steps=4, width=width)
    trainer = glow_tf.PartsTrainer(glow_tf.Glow(config))
    train = glow_tf.TrainConfig(schedule="simultaneous", part_epochs=2, finetune_epochs=0, batch_size=BATCH)
    trainer.compile(train, steps_per_epoch=steps)
    trainer.initialize(next(iter(batches))["images"])
    trainer.fit(batches, steps_per_epoch=1, epochs=1, verbose=0)  # which is traced
    begun = time.monotonic()
    trainer.fit(batches, steps_per_epoch=steps, epochs=2, initial_epoch=1, verbose=0)
    seconds = time.monotonic() - begun
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return loaded - start, seconds, int(status["RssAnon"].split()[0]) // 1024


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
