"""Hostile inputs for `hostile.py`: valid files that were damaged, and flags with wrong values.

An input is made by a function of a random generator and an empty folder. It writes what it needs into the
folder, and returns a function that does what a command does with it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from absl import flags
from PIL import Image

from glow_tf import data, use
from glow_tf.commands import cli, configs, experiment, launch, run_flags
from glow_tf.config import DataConfig, ModelConfig, RunConfig
from glow_tf.devices.processes import read_process_group
from glow_tf.errors import ConfigError
from glow_tf.glow import Glow
from glow_tf.planning import calibrate
from glow_tf.planning.rates import Calibration
from glow_tf.run import lifecycle, tables
from glow_tf.run.saved import load_glow
from glow_tf.run.workdir import Workdir
from glow_tf.studies.runs import runs_of, tuning_runs
from glow_tf.use import evaluation, keeping, models, operations

Deed = Callable[[], object]

TINY = (
    *("--dataset=digits", "--train_examples=64", "--test_examples=32", "--n_bits=5", "--num_blocks=2"),
    *("--flow_steps=1", "--width=4", "--parts=by_block:2", "--schedule=simultaneous", "--part_epochs=1"),
    *("--finetune_epochs=1", "--batch_size=16", "--tensorboard=false", "--strategy=one_device"),
)
WRONG = (
    *(
        "",
        " ",
        "abc",
        "-1",
        "0",
        "1",
        "7",
        "1.5",
        "1e999",
        "nan",
        "-inf",
        "1,2,3",
        ",",
        ",,",
        "²",
        "٣",
        "1_0",
    ),
    *("99999999999999999999999", "9" * 5000, "-0.5", "1e-400", "5e-324", "1000000000", "100000", "0x10"),
    *("\0", "é", "\udcff", "a\nb", "../..", "/", ".", "~nobody/x", "/dev/null", "/proc/self/mem"),
    *("folder:", "folder:~nobody/x", "folder:/dev/null", "folder:\0", "a" * 5000, "None", "[]", "{}", "%s"),
    *("true", "balanced:", "balanced:2@", "balanced:2@nan,1", "by_block:99999999999", "across_block:²"),
    *("flow:", "flow:0x0", "flow:99999999999x1", "flow:1x99999999999", "tanh:", "tanh:nan", "tanh:1e999"),
    *("GPU:7", "digits", "oai", "--", "=", "😀", "1" + "0" * 30, "-" + "9" * 30, "2147483648", "3.5e38"),
)

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "100",
    "5000",
    "100000",
    "1000000000",
    "2147483648",
    "9" * 25,
    "1e30",
    "nan",
)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Valid files, from which hostile ones are made.

    Attributes:
      folder: of all files.
      glow: a small model.
    """

    folder: pathlib.Path
    glow: Glow

    @classmethod
    def make(cls, folder: pathlib.Path, with_run: bool = True) -> Seeds:
        """Makes a small model, and writes a file of every kind.

        Args:
          folder: to write into.
          with_run: also a run, an exported model and a .keras file, which take some seconds.
        """
        glow = Glow(ModelConfig((8, 8, 1), n_bits=5, num_blocks=2, flow_steps=1, width=4), name="glow")
        glow.save_to_preset(folder / "preset", {"top": 128})
        images = data.load(DataConfig()).test[:60]
        use.Scorer(glow).fit(images).save(folder / "calibration.json")
        blocks = {1: 1e-4, 2: 1e-4, 3: 1e-4}
        (folder / "rates.json").write_text(Calibration("a machine", blocks, blocks, 1e-3).to_json())
        eps = use.encode(glow, images[:4])
        np.savez(folder / "latents.npz", eps=eps, names=np.array(["a", "b", "c", "d"]))
        np.save(folder / "latents.npy", eps)
        if with_run:
            glow.save(folder / "glow.keras")
            use.export(glow, folder / "export")
            lifecycle.train(run_flags.config_of([*TINY, f"--workdir={folder}/run"]), use.export)
        return cls(folder, glow)


IMAGES = ("--dataset=digits", "--examples=8")


def command(name: str, *arguments: str) -> None:
    """Runs a command as a terminal would; ConfigError with its message if it ends with one."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(name, arguments)
    if status:
        raise ConfigError(err.getvalue())


@contextlib.contextmanager
def without_long_work(seeds: Seeds) -> Iterator[None]:
    """Within the context, commands check all that they are given, and then do not train, start or measure."""

    def load(path: pathlib.Path) -> Glow:
        return seeds.glow if pathlib.Path(path) == seeds.folder / "preset" else load_glow(path)

    with contextlib.ExitStack() as stack:
        for module, name, instead in (
            (models, "load_glow", load),
            (lifecycle, "_train", lambda *_: {}),
            (launch, "_run", lambda *_: 0),
            (experiment, "run_study", _runs_of_study),
            (calibrate, "calibrate", lambda config: Calibration("", {}, {}, 0.0)),
            (keeping, "evaluate", lambda *_, **__: evaluation.Evaluation(np.ones((1, 2)), {}, {}, 64)),
            (use, "export", lambda glow, folder: None),
            (use, "export_litert", lambda glow, folder: []),
            (use, "export_onnx", lambda glow, folder: []),
        ):
            stack.enter_context(mock.patch.object(module, name, instead))
        yield


def _runs_of_study(found: experiment.Experiment) -> None:
    tuning_runs(found.study, found.folder, found.configure)
    runs_of(found.study, found.folder, found.configure, {}, found.quick)


# Damage


def damaged(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Returns bytes that were flipped, cut, repeated, inserted, emptied or replaced."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 10))):
        size = len(content)
        place = rng.randrange(size + 1)
        way = rng.randrange(9)
        if way < 3 and size:
            reach = min(size, 200) if way else size
            content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        elif way == 3:
            del content[place:]
        elif way == 4:
            content[place:place] = rng.randbytes(rng.randrange(1, 40))
        elif way == 5:
            del content[place : place + rng.randrange(1, 40)]
        elif way == 6:
            content[place:place] = content[place : place + rng.randrange(1, 400)]
        elif way == 7 and size >= 4:
            place = rng.randrange(size - 3)
            content[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16)))
        elif rng.random() < 0.1:
            content[:] = rng.choice(
                (b"", b"\0" * 1000, other, b"\xff\xfe" + bytes(content), rng.randbytes(300))
            )
    return bytes(content)


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Returns lines that were removed, repeated, swapped, given other values or damaged as bytes."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines)) if lines else 0
        way = rng.randrange(8)
        if way < 4 and lines:
            key, equals, value = lines[place].partition("=")
            if equals:
                new = rng.choice((rng.choice(WRONG), value + " " + value, value + rng.choice(WRONG)))
                lines[place] = f"{key}={new}"
        elif way == 4 and lines:
            del lines[place]
        elif way == 5 and lines:
            lines.insert(rng.randrange(len(lines) + 1), lines[place])
        elif way == 6:
            lines.insert(
                place, rng.choice(("[", "]", "[DEFAULT]", "[variant ../x]", "x", "a = b", "%(a)s", "\0"))
            )
        else:
            lines.insert(place, rng.choice(WRONG))
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return damaged(rng, content) if rng.random() < 0.2 else content


def damaged_json(rng: random.Random, content: Any) -> bytes:
    """Returns JSON in which one value or key is another, or damaged bytes of it."""
    if rng.random() < 0.15:
        return damaged(rng, json.dumps(content).encode())
    if rng.random() < 0.03:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"", b"null", b"NaN", b"1" * 10_000, b"\xff"))
    changed = copy.deepcopy(content)
    at, parent, key = changed, None, None
    while isinstance(at, dict | list) and at and (parent is None or rng.random() < 0.7):
        parent, key = at, rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at = at[key]
    values = (
        None,
        True,
        0,
        -1,
        1.5,
        1e308,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        {},
        [[1]],
        [1, 2],
        "1",
    )
    if isinstance(parent, dict) and rng.random() < 0.2:
        parent[rng.choice(("x", "", "é"))] = parent.pop(key)
    elif rng.random() < 0.15:
        del parent[key]
    else:
        parent[key] = rng.choice((*values, 10**6, 10**9, rng.choice(WRONG)))
    return json.dumps(changed).encode("utf-8", "surrogatepass")


# Images

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}
OTHERS = (
    "PPM",
    "TGA",
    "ICO",
    "PDF",
    "EPS",
    "JPEG2000",
    "SGI",
    "PCX",
    "ICNS",
    "DIB",
    "MPO",
    "XBM",
    "IM",
    "DDS",
)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Returns a picture as a file; as PNG if the kind cannot hold it."""
    content = io.BytesIO()
    try:
        picture.save(content, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error):
        content = io.BytesIO()
        picture.convert("RGB").save(content, "PNG")
    return content.getvalue()


def bomb(width: int, height: int, pixels: bool = True) -> bytes:
    """Returns a PNG of some kilobytes that claims a size, with all of its black pixels or with one row."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    squeeze, squeezed = zlib.compressobj(9), []
    for _ in range(height if pixels else 1):
        squeezed.append(squeeze.compress(bytes(3 * min(width, 2**16) + 1)))
    squeezed.append(squeeze.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"".join(squeezed))
        + chunk(b"IEND", b"")
    )


def _random_picture(rng: random.Random) -> Image.Image:
    width, height = rng.choice(((16, 16), (8, 8), (1, 30_000), (30_000, 1), (1, 1), (40, 24), (5, 300)))
    generator = np.random.default_rng(rng.randrange(2**32))
    mode = rng.choice(
        ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
    )
    if mode in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        return Image.fromarray(generator.integers(0, 2**16, (height, width)).astype(types[mode]))
    pixels = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return (pixels.convert("L") if mode in ("LA", "PA") else pixels).convert(mode if mode != "PA" else "P")


def picture_file(rng: random.Random) -> bytes:
    """Returns a picture of any kind: animated, turned, with a palette, of 16 bits, or damaged."""
    kind = rng.choice((*SUFFIXES, *SUFFIXES, *OTHERS))
    picture = _random_picture(rng)
    options: dict[str, Any] = {}
    if rng.random() < 0.2 and kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"save_all": True, "append_images": [picture.copy() for _ in range(rng.randrange(1, 4))]}
    if rng.random() < 0.2 and kind in ("JPEG", "WEBP", "PNG", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 2, 3, 6, 8, 9, 0, 65535))
        options["exif"] = exif
    content = saved(picture, kind, **options)
    return damaged(rng, content, rng.randbytes(50)) if rng.random() < 0.7 else content


def images(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A folder with hostile pictures beside good ones, read as a data set."""
    for k in range(10):
        Image.new("RGB", (16, 16), (k, 2 * k, 3 * k)).save(folder / f"{k}.png")
    for k in range(rng.randrange(1, 4)):
        name = rng.choice(
            (f"h{k}", f"ü😀{k}", f"-{k}", f".{k}", "n" * 200 + str(k), f" {k} ", f"\udcff{k}", f"{k}\n")
        )
        suffix = rng.choice((*SUFFIXES.values(), *SUFFIXES.values(), "PNG", "txt", "heic", "png.png"))
        (folder / f"{name}.{suffix}").write_bytes(picture_file(rng))
    if rng.random() < 0.1:
        (folder / "link.png").symlink_to(rng.choice(("link.png", ".", "/dev/zero", "/nowhere", "0.png")))
        (folder / "circle").symlink_to(folder, target_is_directory=True)
    if rng.random() < 0.05:
        os.mkfifo(folder / "pipe.png")
        (folder / "folder.png").mkdir()
    if rng.random() < 0.01:
        claimed = rng.choice(((12_000, 7_000, True), (13_000, 13_000, True), (2**31 - 1, 2**31 - 1, False)))
        (folder / "bomb.png").write_bytes(bomb(*claimed))
    size = rng.choice((0, 8, 8, 32))
    if rng.random() < 0.5:
        return lambda: data.load(DataConfig(f"folder:{folder}", image_size=size))
    return lambda: command("evaluate", f"--model={seeds.folder}/preset", f"--dataset=folder:{folder}")


def mask(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A hostile picture as the mask of `restore inpaint`."""
    path = folder / "mask.png"
    path.write_bytes(picture_file(rng))
    name = str(path) if rng.random() < 0.9 else rng.choice(WRONG)
    fixed = [f"--model={seeds.folder}/preset", "--dataset=digits", "--examples=2", "--steps=1"]
    return lambda: command("restore", "inpaint", *fixed, f"--mask={name}", f"--output={folder}/r.png")


# Text files


def _text_file(rng: random.Random, folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "hostile.cfg"
    path.write_bytes(damaged_text(rng, text))
    return path


def flagfiles(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A flagfile of a training run."""
    text = rng.choice(sorted(configs.folder().glob("*.cfg"))).read_text(encoding="utf-8")
    path = _text_file(rng, folder, text)
    if rng.random() < 0.1:  # many files that include one another
        for k in range(30):
            (folder / f"{k}.cfg").write_text(f"--flagfile={folder}/{k + 1}.cfg\n" * rng.choice((1, 2)))
        (folder / "30.cfg").write_text("--seed=1\n")
        path = folder / "0.cfg"
    return lambda: run_flags.config_of([f"--flagfile={path}", f"--workdir={folder}/run"])


def studies(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A study file."""
    text = rng.choice(sorted((configs.folder() / "studies").glob("*.cfg"))).read_text(encoding="utf-8")
    path = _text_file(rng, folder, text)
    return lambda: command("experiment", f"--study={path}", f"--output={folder}/out")


def clusters(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A cluster file."""
    text = rng.choice(sorted((configs.folder() / "clusters").glob("*.cfg"))).read_text(encoding="utf-8")
    text = text.replace("gflops = 5200", rng.choice(("gflops = 5200", "speed = 1")))
    path = _text_file(rng, folder, text)
    rates = [f"--calibration={seeds.folder}/rates.json"] if rng.random() < 0.5 else []
    return lambda: command("plan", *TINY, f"--cluster={path}", *rates, f"--workdir={folder}/run")


def tables_of_studies(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The table of a study, which a report reads and an experiment goes on from."""
    text = (pathlib.Path(__file__).parent.parent / "docs/results/table1_small.csv").read_text()
    lines = text.splitlines()
    text = "\n".join([lines[0], *rng.sample(lines[1:], 40)])
    (folder / "page.md").write_text("<!-- table table1_small -->\n<!-- end -->\n")
    (folder / "results.csv").write_bytes(damaged_csv(rng, text))
    study = "--study=table1_small"
    if rng.random() < 0.3:
        return lambda: command("experiment", study, f"--output={folder}")
    return lambda: command("report", study, f"--csv={folder}/results.csv", f"--documents={folder}/page.md")


def damaged_csv(rng: random.Random, text: str) -> bytes:
    """Returns a table in which a cell is another, or a line is damaged."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice((0, rng.randrange(len(lines)), rng.randrange(len(lines))))
        cells = lines[place].split(",")
        way = rng.randrange(6)
        if way < 4:
            cells[rng.randrange(len(cells))] = rng.choice(('"', *WRONG))
        elif way == 4:
            del cells[rng.randrange(len(cells))]
        else:
            cells *= 2
        lines[place] = ",".join(cells)
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return damaged(rng, content) if rng.random() < 0.2 else content


# JSON


def rates(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The rates that `plan --calibrate` wrote."""
    path = folder / "rates.json"
    path.write_bytes(damaged_json(rng, json.loads((seeds.folder / "rates.json").read_text())))
    cluster = folder / "cluster.cfg"
    cluster.write_text("[cluster]\nmbit = 100\n[device a]\ncount = 2\nspeed = 1\nmemory_gb = 1\n")
    return lambda: command(
        "plan", *TINY, f"--cluster={cluster}", f"--calibration={path}", f"--workdir={folder}/run"
    )


def calibrations(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """What `score fit` wrote."""
    path = folder / "calibration.json"
    path.write_bytes(damaged_json(rng, json.loads((seeds.folder / "calibration.json").read_text())))
    fixed = [f"--model={seeds.folder}/preset", *IMAGES, "--false_alarms=0.5", f"--output={folder}/scores"]
    return lambda: command("score", "check", *fixed, f"--calibration={path}")


def presets(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The folder of a preset, with its settings or its weights damaged."""
    shutil.copytree(seeds.folder / "preset", folder / "p")
    path = folder / "p" / "config.json"
    path.write_bytes(damaged_json(rng, json.loads(path.read_text())))
    way = rng.randrange(3)
    if way == 0:
        return lambda: command("sample", f"--model={folder}/p", "--num=2", f"--output={folder}/s.png")
    if way == 1:
        return lambda: run_flags.config_of(
            [*TINY[:3], f"--from_preset={folder}/p", f"--workdir={folder}/run"]
        )
    return lambda: Glow.from_preset(folder / "p")


def weights(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A preset's weights."""
    shutil.copytree(seeds.folder / "preset", folder / "p")
    path = folder / "p" / "model.weights.h5"
    path.write_bytes(damaged(rng, path.read_bytes()))
    return lambda: Glow.from_preset(folder / "p")


def keras_files(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A .keras file."""
    path = folder / "m.keras"
    path.write_bytes(damaged(rng, (seeds.folder / "glow.keras").read_bytes()))
    return lambda: use.open_model(path)


def exports(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The program of an exported model, before TensorFlow loads it."""
    path = folder / "saved_model.pb"
    path.write_bytes(damaged(rng, (seeds.folder / "export" / "saved_model.pb").read_bytes()))
    return lambda: operations.check_operations(folder)


def processes(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """What TF_CONFIG says about the processes of a run."""
    job = rng.choice(("part", "worker"))
    described = {"cluster": {job: ["127.0.0.1:2222", "localhost:2223"]}, "task": {"type": job, "index": 0}}
    text = damaged_json(rng, described).decode(errors="replace")
    strategy = {"part": "part_parallel", "worker": "multi_worker"}[job]
    return lambda: _group(read_process_group(strategy, {"TF_CONFIG": text}))


def _group(group: Any) -> None:
    if group is not None:
        _ = group.processes_here, group.names(group.others), group.tf_config


# Arrays and workdirs


def latents(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The latents that `decode` reads."""
    kind = rng.choice(("npz", "npy"))
    path = folder / f"latents.{kind}"
    content = (seeds.folder / f"latents.{kind}").read_bytes()
    path.write_bytes(damaged(rng, content))
    if rng.random() < 0.3:
        arrays = {"eps": np.zeros((2, 64), np.float32), "names": np.array(["a", "b"])}
        arrays[rng.choice(("eps", "names"))] = rng.choice(
            (
                *(np.zeros(0), np.zeros((2, 3)), np.zeros((2, 64), complex), np.array(["a\0b", "c"])),
                *(
                    np.array(["../a", "b"]),
                    np.array(["é", "\udcff"]),
                    np.array([b"a", b"b"]),
                    np.zeros((2, 64, 1)),
                ),
                *(
                    np.array(["a" * 300, "b"]),
                    np.array(["a", "a"]),
                    np.array(["a", "a/b"]),
                    np.full((2, 64), 1e300),
                ),
                *(
                    np.zeros((2, 64), "f2"),
                    np.zeros((2, 64), ">f8"),
                    np.zeros(2, [("a", "f4")]),
                    np.array(["", "x"]),
                ),
            )
        )
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        path = path.with_suffix(".npz")
    model = f"--model={seeds.folder}/preset"
    return lambda: command("decode", model, f"--latents={path}", f"--output={folder}/decoded")


RUN_FILES = ("flags.cfg", "history.csv", "summary.json", "checkpoints/model.json", "checkpoints/checkpoint")


def workdirs(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The folder of a run with one file damaged, or gone, which a command resumes, loads or reads."""
    run = folder / "run"
    shutil.copytree(seeds.folder / "run", run, ignore=shutil.ignore_patterns("export", "samples", "logs"))
    checkpoint = [f"checkpoints/{path.name}" for path in (run / "checkpoints").glob("ckpt*")]
    name = rng.choice((*RUN_FILES, *RUN_FILES, *checkpoint))
    path = run / name
    content = path.read_bytes()
    ways = {
        ".json": lambda: damaged_json(rng, json.loads(content)),
        ".csv": lambda: damaged_csv(rng, content.decode()),
    }
    ways[".cfg"] = lambda: damaged_text(rng, content.decode())
    path.write_bytes(ways.get(path.suffix, lambda: damaged(rng, content))())
    if rng.random() < 0.1:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
    way = rng.randrange(4)
    if way == 0:
        return lambda: command("preset", f"--workdir={run}", f"--output={folder}/kept")
    if way == 1:
        return lambda: use.open_model(run)
    return lambda: command("train", *TINY, f"--workdir={run}") if way == 2 else _read_run(run)


def _read_run(run: pathlib.Path) -> None:
    config = RunConfig.from_settings({**run_flags.config_of([*TINY, f"--workdir={run}"]).to_settings()})
    workdir = Workdir(config)
    try:
        workdir.check_progress()
        rows = workdir.read_history()
        if rows:
            tables.closing_table(rows, 2, [1.0] * len(rows))
    finally:
        workdir.close()


# Flags


def wrong_flags(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A command with one flag, or two, of the wrong kind."""
    name = rng.choice(cli.COMMANDS)
    model = f"--model={seeds.folder}/preset"
    shutil.copy(seeds.folder / "latents.npz", folder)
    (folder / "page.md").write_text("<!-- table table1_small -->\n<!-- end -->\n")
    table = pathlib.Path(__file__).parent.parent / "docs/results/table1_small.csv"
    fixed = {
        "train": (*TINY, f"--workdir={folder}/run"),
        "launch": ("--parts",),
        "plan": (*TINY, "--cluster=eight_home", f"--workdir={folder}/run"),
        "experiment": ("--study=digits_tiny", f"--output={folder}/study"),
        "report": ("--study=table1_small", f"--csv={table}", f"--documents={folder}/page.md"),
        "preset": (f"--workdir={seeds.folder}/run", f"--output={folder}/kept"),
        "export": (model, f"--output={folder}/exported"),
        "sample": (model, "--num=2", f"--output={folder}/s.png"),
        "decode": (model, f"--latents={folder}/latents.npz", f"--output={folder}/decoded"),
        "encode": (model, *IMAGES, f"--output={folder}/l.npz"),
        "evaluate": (model, *IMAGES),
        "edit": (
            model,
            "--dataset=digits",
            "--away=1",
            "--towards=2",
            "--rows=1",
            f"--output={folder}/e.png",
        ),
        "score": (model, "--dataset=digits", "--examples=40", f"--output={folder}/scores"),
        "restore": (model, *IMAGES, "--steps=1", f"--output={folder}/r.png"),
    }.get(name, (model, *IMAGES, f"--output={folder}/o.png"))
    action = {"score": ["check"], "restore": [rng.choice(("denoise", "inpaint", "upscale"))]}.get(name, [])
    if name == "score":
        fixed = (*fixed, f"--calibration={seeds.folder}/calibration.json", "--false_alarms=0.5")
    values = flags.FlagValues()
    importlib.import_module(f"glow_tf.commands.{name}").define(values)
    own = [_wrong(rng, values) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.1:
        own.append(
            rng.choice(
                ("--", "---", "--x", "x", "-", "--=", "--flagfile", "--flagfile=", "--undefok=x", "--no")
            )
        )
    after = []
    if name == "launch":
        of_run = flags.FlagValues()
        run_flags.define(of_run)
        after = ["--", *TINY, f"--workdir={folder}/run"]
        after += [_wrong(rng, of_run)] if rng.random() < 0.5 else []
    return lambda: command(name, *action, *fixed, *own, *after)


def _wrong(rng: random.Random, values: flags.FlagValues) -> str:
    """Returns a flag with a value that it may not have; numbers get more numbers than words."""
    name = rng.choice(list(values))
    numeric = values[name].flag_type() in ("int", "float") and rng.random() < 0.7
    value = rng.choice(NUMBERS if numeric else WRONG)
    if name in ("num", "steps", "draws") and value in ("100", "5000", "100000"):
        value = "7"  # these are right, and take long
    return f"--{name}={value}"


Make = Callable[[Seeds, random.Random, pathlib.Path], Deed]
KINDS: dict[str, tuple[int, Make]] = {  # → how many of 30 inputs are of this kind, and what makes one
    "flags of all commands": (4, wrong_flags),
    "flagfiles": (2, flagfiles),
    "study files": (2, studies),
    "tables of studies": (2, tables_of_studies),
    "cluster files": (2, clusters),
    "rates of a machine": (2, rates),
    "calibrations of scores": (2, calibrations),
    "presets": (1, presets),
    "weights of presets": (1, weights),
    "keras files": (1, keras_files),
    "exported programs": (1, exports),
    "TF_CONFIG": (2, processes),
    "latents": (2, latents),
    "workdirs": (1, workdirs),
    "folders of images": (4, images),
    "masks": (1, mask),
}
