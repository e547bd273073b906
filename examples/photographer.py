"""Train on folders of photographs as they come: turned, mixed, damaged.

    python examples/photographer.py FOLDER

The script draws pictures into FOLDER/landscapes and FOLDER/sunsets. Then it runs the commands that a
photographer would type: train, train for more epochs, and go on with other pictures. At the end it asks the
model which pictures are the least usual ones. It takes about 30 seconds on two cores and downloads nothing.
"""

import pathlib
import shlex
import subprocess
import sys

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast
import numpy as np
from glow_tf import data
from PIL import Image

SIZE = 16  # the photographs are cut to squares and resized to this side
ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held


# 1. Two folders of pictures


def landscape(rng: np.random.Generator, sky: tuple[int, int, int], width: int, height: int) -> Image.Image:
    """Draws clouds in a sky above a hill, with the light and the colours of some hour of some day."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    hill = down > rng.uniform(0.5, 0.8) + 0.15 * np.sin(6 * (rng.uniform(0.5, 1.5) * across + rng.uniform()))
    colours = np.where(hill[..., np.newaxis], (90, 110, 70), sky) + rng.normal(0, 25, 3)
    clouds = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    picture = rng.uniform(0.4, 1) * colours + 0.6 * (np.asarray(clouds) - 128.0)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def fill(folder: pathlib.Path, sky: tuple[int, int, int], seed: int) -> None:
    """Fills a folder as it looks after years: several cameras, formats and sizes, and some damage."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for k in range(150):
        width, height = (320, 240) if k % 3 else (200, 150)
        picture = landscape(rng, sky, width, height)
        if k % 5 == 0:  # the camera was held upright: the file has the picture on its side
            exif = Image.Exif()
            exif[ORIENTATION] = 6
            picture.transpose(Image.Transpose.ROTATE_90).save(folder / f"{k:03d}.jpg", exif=exif)
        else:
            suffix = {1: "png", 2: "webp", 3: "tif", 4: "gif"}.get(k % 20, "jpg")
            picture.save(folder / f"{k:03d}.{suffix}")
    landscape(rng, sky, 12, 10).save(folder / "thumbnail.png")
    landscape(rng, sky, 320, 240).convert("L").save(folder / "grey.jpg")
    card = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    card.resize((320, 320), Image.Resampling.NEAREST).save(folder / "test_card.png")
    whole = (folder / "006.jpg").read_bytes()
    (folder / "cut_off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "phone.heic").write_bytes(b"a format that is not read")
    (folder / "notes.txt").write_text("Holidays")


def train(folder: pathlib.Path, workdir: pathlib.Path, **settings: object) -> None:
    """Runs `glow-tf train`, and shows the command."""
    settings = {
        "dataset": f"folder:{folder}",
        "image_size": SIZE,
        "workdir": workdir,
        "num_blocks": 2,
        "flow_steps": 2,
        "width": 16,
        "parts": "by_block:2",
        "schedule": "simultaneous",
        "rate_schedule": "constant",  # a cosine ends with the last epoch, and leaves no room for more
        "warmup_steps": 10,
        "augment": "flip",
        "tensorboard": "false",
        "sample_every": 5,
        "export": "false",
        **settings,
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    print(f"\n$ glow-tf train {shlex.join(flags)}", flush=True)
    subprocess.run([sys.executable, "-m", "glow_tf.commands", "train", *flags], check=True)


def main(folder: pathlib.Path) -> dict[str, float]:
    """Returns bits/dim of the sunsets' test pictures, before and after training on sunsets."""
    fill(folder / "landscapes", (120, 160, 210), seed=0)
    fill(folder / "sunsets", (230, 110, 50), seed=1)

    # 2. Train. The notes that the command prints first say what it read, and what it left out.
    first = folder / "runs" / "landscapes"
    train(folder / "landscapes", first, part_epochs=5, finetune_epochs=0)

    # 3. More epochs: the same command with a higher number goes on where the run ended.
    train(folder / "landscapes", first, part_epochs=10, finetune_epochs=0)

    # 4. Another folder: a new workdir, the weights of the first run to start from, and smaller steps.
    second = folder / "runs" / "sunsets"
    train(
        folder / "sunsets", second, part_epochs=10, finetune_epochs=0, init_from=first, learning_rate="2e-2"
    )

    # 5. Which pictures are the least usual ones? A picture's name goes with its score.
    sunsets = data.load(glow_tf.DataConfig(dataset=f"folder:{folder / 'sunsets'}", image_size=SIZE))
    names, images = sunsets.names["train"], sunsets.train
    bits = glow_tf.load(second).bits_per_dim(images, seed=0).numpy()
    print("\nthe least usual sunsets, in bits/dim:")
    for k in np.argsort(-bits)[:3]:
        print(f"  {names[k]}: {bits[k]:.2f}")
    before, after = (
        float(np.mean(glow_tf.load(run).bits_per_dim(sunsets.test, seed=0))) for run in (first, second)
    )
    print(
        f"test sunsets: {before:.2f} bits/dim by the landscapes' model, {after:.2f} after training on sunsets"
    )
    return {"before": before, "after": after}


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1] if sys.argv[1:] else "photographs")
    if target.exists():
        sys.exit(
            f"{target} exists already; name a folder that does not: python examples/photographer.py FOLDER"
        )
    main(target)
