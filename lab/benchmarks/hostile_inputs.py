"""Hostile inputs for `hostile.py`: valid files that were damaged, and flags with wrong values.

An input is made by a function of a random generator and an empty folder. It writes what it needs into the
folder, and returns a function that does what a command does with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import traceback
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from absl import flags
from PIL import Image

from glow_tf import data, use
from glow_tf.commands import cli, configs, launch, run_flags
from glow_tf.config import DataConfig, ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError, NonFiniteError
from glow_tf.devices.processes import read_process_group
from glow_tf.model.glow import Glow
from glow_tf.run import lifecycle, tables
from glow_tf.run.files.saved import load as load_glow
from glow_tf.run.files.workdir import Workdir
from glow_tf.use import evaluation, models, run_presets
from glow_tf.use.exports import operations
from lab.benchmarks.hostile_damage import (
    WRONG,
    damaged,
    damaged_csv,
    damaged_json,
    damaged_text,
    wrong_flag,
)
from lab.benchmarks.hostile_pictures import SUFFIXES, bomb, picture_file

Deed = Callable[[], object]

TINY = (
    *("--dataset=digits", "--train_examples=64", "--test_examples=32", "--n_bits=5", "--num_blocks=2"),
    *("--flow_steps=1", "--width=4", "--parts=by_block:2", "--schedule=simultaneous", "--part_epochs=1"),
    *("--finetune_epochs=1", "--batch_size=16", "--tensorboard=false", "--strategy=one_device"),
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
        use.NoveltyDetector(glow, 0.5, epochs=0).fit(images).save(folder / "detector.zip")
        eps = use.encode(glow, images[:4])
        np.savez(folder / "latents.npz", eps=eps, names=np.array(["a", "b", "c", "d"]))
        np.save(folder / "latents.npy", eps)
        if with_run:
            glow.save(folder / "glow.keras")
            use.export(glow, folder / "export")
            lifecycle.train(run_flags.config_of([*TINY, f"--workdir={folder}/run"]), use.export)
        return cls(folder, glow)


IMAGES = ("--dataset=digits", "--examples=8")


def module_of(name: str) -> types.ModuleType:
    """Returns a command of the package or of the lab."""
    return importlib.import_module(f"glow_tf.commands.{name}" if name in cli.COMMANDS else f"lab.{name}")


def wrong_arguments(rng: random.Random, of_command: types.ModuleType) -> list[str]:
    """Returns one flag of a command, or two, with wrong values, and sometimes what is no flag."""
    values = flags.FlagValues()
    of_command.define(values)
    own = [wrong_flag(rng, values) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.1:
        own.append(
            rng.choice(
                ("--", "---", "--x", "x", "-", "--=", "--flagfile", "--flagfile=", "--undefok=x", "--no")
            )
        )
    return own


def command(name: str, *arguments: str) -> None:
    """Runs a command as a terminal would; ConfigError with its message if it ends with one."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run_module(module_of(name), arguments)
    if status:
        raise ConfigError(err.getvalue())


class TooLongError(BaseException):
    """An input did not end; no command catches this."""


def outcome_of(deed: Deed) -> str:
    """Returns `fine`, `refused`, or what went wrong."""
    try:
        deed()
    except (ConfigError, NonFiniteError, OSError) as error:
        named = (
            "Received" in str(error)
            or "/" in str(error)
            or "flag" in str(error).lower()
            or "[Errno" in str(error)
        )
        return "refused" if named and "Traceback" not in str(error) else f"a sentence without a name: {error}"
    except TooLongError:
        return "it does not end"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:300]} ({place.filename}:{place.lineno})"
    return "fine"


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
            (run_presets, "evaluate", lambda *_, **__: evaluation.Evaluation(np.ones((1, 2)), {}, {}, 64)),
            (use, "export", lambda glow, folder: None),
            (use, "export_litert", lambda glow, folder: []),
            (use, "export_onnx", lambda glow, folder: []),
        ):
            stack.enter_context(mock.patch.object(module, name, instead))
        yield


# Images


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


def text_file(rng: random.Random, folder: pathlib.Path, text: str) -> pathlib.Path:
    """Writes a damaged text; returns where it is."""
    path = folder / "hostile.cfg"
    path.write_bytes(damaged_text(rng, text))
    return path


def flagfiles(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A flagfile of a training run."""
    text = rng.choice(sorted(configs.folder().glob("*.cfg"))).read_text(encoding="utf-8")
    path = text_file(rng, folder, text)
    if rng.random() < 0.1:  # many files that include one another
        for k in range(30):
            (folder / f"{k}.cfg").write_text(f"--flagfile={folder}/{k + 1}.cfg\n" * rng.choice((1, 2)))
        (folder / "30.cfg").write_text("--seed=1\n")
        path = folder / "0.cfg"
    return lambda: run_flags.config_of([f"--flagfile={path}", f"--workdir={folder}/run"])


# JSON


def calibrations(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """What `score fit` wrote."""
    path = folder / "detector.zip"
    with zipfile.ZipFile(seeds.folder / "detector.zip") as whole, zipfile.ZipFile(path, "w") as copy:
        which = rng.choice(whole.namelist())
        for name in whole.namelist():
            content = whole.read(name)
            if name == which and name.endswith(".json"):
                content = damaged_json(rng, json.loads(content))
            elif name == which:
                content = damaged(rng, content)
            copy.writestr(name, content)
    fixed = [*IMAGES, "--false_alarms=0.5", f"--output={folder}/scores"]
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
    fixed = {
        "train": (*TINY, f"--workdir={folder}/run"),
        "launch": ("--parts",),
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
        fixed = (*fixed, f"--calibration={seeds.folder}/detector.zip", "--false_alarms=0.5")
    own, after = wrong_arguments(rng, module_of(name)), []
    if name == "launch":
        of_run = flags.FlagValues()
        run_flags.define(of_run)
        after = ["--", *TINY, f"--workdir={folder}/run"]
        after += [wrong_flag(rng, of_run)] if rng.random() < 0.5 else []
    return lambda: command(name, *action, *fixed, *own, *after)


Make = Callable[[Seeds, random.Random, pathlib.Path], Deed]


def ends_of(kind: str, make: Make, count: int, seeds: Seeds, folder: pathlib.Path) -> list[str]:
    """Returns how the first inputs of a kind end, in order, each in a folder of its own; see `outcome_of`."""
    ends = []
    for k in range(count):
        own = folder / str(k)
        own.mkdir()
        ends.append(outcome_of(make(seeds, random.Random(f"test {kind} {k}"), own)))
    return ends


KINDS: dict[str, tuple[int, Make]] = {  # → how many of 30 inputs are of this kind, and what makes one
    "flags of all commands": (4, wrong_flags),
    "flagfiles": (2, flagfiles),
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
