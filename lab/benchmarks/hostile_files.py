"""Model files as an attacker would craft them, for the tests.

A crafted file asks Keras, HDF5 or zipfile for something that no model of this package needs: a layer that
runs a program, another file of the reader, or far more memory than the file takes. Each must be refused
before that is done.
"""

from __future__ import annotations

import base64
import copy
import functools
import io
import json
import marshal
import os
import pathlib
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

import glow_tf
from glow_tf import use
from glow_tf.core.errors import ConfigError, NonFiniteError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
Members = dict[str, bytes]
# Names begin so of what costs time or memory, or was loaded in silence, in earlier releases: few, and quick.
GUARDED = ("weights of", "an array that", "other names", "many", "a lie", "a hole", "long settings", "a pipe")


def outcome_of(deed: Callable[[], object]) -> str:
    """Returns `fine`, `refused`, or what went wrong."""
    try:
        deed()
    except (ConfigError, NonFiniteError, OSError) as error:
        text = str(error)
        named = "Received" in text or "/" in text or "flag" in text.lower() or "[Errno" in text
        return "refused" if named and "Traceback" not in text else f"a sentence without a name: {error}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:300]} ({place.filename}:{place.lineno})"
    return "fine"


def write_bases(folder: pathlib.Path, secret: pathlib.Path) -> None:
    """Writes what files are crafted from: a trainer, a preset, and a SavedModel that writes when it loads.

    Args:
      folder: to write into.
      secret: the file that a successful attack writes.
    """
    glow = glow_tf.Glow(
        glow_tf.ModelConfig((8, 8, 1), n_bits=5, num_blocks=1, flow_steps=1, width=4), name="glow"
    )
    glow.save_to_preset(folder / "preset")
    trainer = glow_tf.PartsTrainer(glow)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    trainer.compile([keras.optimizers.Adam(schedule)])
    trainer.save(folder / "trainer.keras")

    class Writes(tf.saved_model.experimental.TrackableResource):
        """A resource whose initialiser writes a file, as TFSMLayer would run it."""

        def _create_resource(self) -> tf.Tensor:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

        def _initialize(self) -> None:
            tf.io.write_file(str(secret), "written")

    module = tf.Module()
    module.resource = Writes()
    module.serve = tf.function(
        lambda x: x + 0 * tf.cast(tf.size(module.resource.resource_handle), tf.float32),
        input_signature=[tf.TensorSpec([None, 8], tf.float32)],
    )
    tf.saved_model.save(module, str(folder / "writes"), signatures={"serve": module.serve})
    secret.unlink(missing_ok=True)  # saving initialised it


@keras.saving.register_keras_serializable(package="hostile")
class Registered(keras.layers.Layer):
    """A class that a program has registered, and that no file of a model may name by itself."""

    made: list[str] = []

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.made.append(self.name)


def _of_keras(module: str, name: str, config: Any, registered: str | None = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def payloads(folder: pathlib.Path, secret: pathlib.Path) -> dict[str, Any]:
    """Returns what a file may ask Keras for: the name of each attack → its JSON."""
    code = compile(f"lambda *x: open({str(secret)!r}, 'w')", "x", "eval").co_consts[0]
    marshalled = base64.b64encode(marshal.dumps(code)).decode()
    function = {"code": marshalled, "defaults": None, "closure": None}
    bare = {"class_name": "__lambda__", "config": {"value": [marshalled, None, None]}}
    saved = {"filepath": str(folder / "writes"), "call_endpoint": "serve", "name": "x", "trainable": False}
    dense = _of_keras("keras.layers", "Dense", {"units": 30_000, "name": "d"})
    dense["build_config"] = {"input_shape": [None, 30_000]}
    inputs = _of_keras("keras.layers", "InputLayer", {"batch_shape": [None, 30_000], "name": "i"})
    wrapped = {"function": {"class_name": "__lambda__", "config": function}, "name": "x"}
    adam = _of_keras("keras.optimizers", "Adam", {"learning_rate": 0.1})
    return {
        "TFSMLayer": _of_keras("keras.layers", "TFSMLayer", saved),
        "TFSMLayer by its module": _of_keras("keras" + ".src.export.tfsm_layer", "TFSMLayer", saved),
        "Lambda": _of_keras("keras.layers", "Lambda", wrapped),
        "a bare lambda": bare,
        "a Sequential": _of_keras("keras", "Sequential", {"name": "s", "layers": [inputs, dense]}),
        "get_file": _of_keras("keras.utils", "function", "get_file", "get_file"),
        "load_model": {**_of_keras("keras.saving", "function", "load_model", "load_model")},
        "os.system": _of_keras("os", "function", "system", "system"),
        "subprocess": _of_keras("subprocess", "Popen", {"args": ["touch", str(secret)]}),
        "a tensor": {"class_name": "__tensor__", "config": {"value": [0.0] * 9, "dtype": "float32"}},
        "an array": {"class_name": "__numpy__", "config": {"value": [0.0] * 9, "dtype": "float32"}},
        "bytes": {"class_name": "__bytes__", "config": {"value": "x"}},
        "a registered class": _of_keras("x", "Registered", {"name": "x"}, "hostile>Registered"),
        "a registered class in the name of Keras": _of_keras(
            "keras.optimizers", "Adam", {"name": "x"}, "hostile>Registered"
        ),
        "a layer in our name": _of_keras("keras.layers", "Lambda", wrapped, "glow_tf>Glow"),
        "our own layer": _of_keras("glow_tf.bijectors.squeeze", "Squeeze", {}, "glow_tf>Squeeze"),
        "a function of optimizers": _of_keras("keras.optimizers", "deserialize", {"config": adam}),
        "a shared object": {**adam, "shared_object_id": 7},
        "another library": _of_keras("keras_hub.models", "Backbone", {"name": "x"}),
    }


# Where a payload may stand in the settings of a trainer. Each returns the dictionary or list, and the key.
# Of a trainer the model alone is made, so the file is loaded, without what stands in `NOT_READ`.
NOT_READ = (
    *("seed", "phases", "new setting", "loss of the glow", "optimizer", "learning rate"),
    *("setting of the schedule", "within a list", "option", "a pattern", "a long name", " as name"),
    *("a phase of part 10^8", "two models"),
)
PLACES: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "model": lambda c: ({"": c}, ""),
    "glow": lambda c: (c["config"], "glow"),
    "name": lambda c: (c["config"], "name"),
    "seed": lambda c: (c["config"], "seed"),
    "phases": lambda c: (c["config"], "phases"),
    "new setting": lambda c: (c["config"], "callback"),
    "dtype": lambda c: (c["config"]["glow"]["config"], "dtype"),
    "settings of the model": lambda c: (c["config"]["glow"]["config"], "config"),
    "width": lambda c: (c["config"]["glow"]["config"]["config"], "width"),
    "condition network": lambda c: (c["config"]["glow"]["config"], "condition_network"),
    "loss of the glow": lambda c: (c["config"]["glow"].setdefault("compile_config", {}), "loss"),
    "optimizer": lambda c: (c["compile_config"]["optimizers"], 0),
    "learning rate": lambda c: (c["compile_config"]["optimizers"][0]["config"], "learning_rate"),
    "setting of the schedule": lambda c: (
        c["compile_config"]["optimizers"][0]["config"]["learning_rate"]["config"],
        "alpha",
    ),
    "within a list": lambda c: (c["compile_config"]["optimizers"][0]["config"], "betas"),
    "option": lambda c: (c["compile_config"], "clip_norm"),
}


def members_of(path: pathlib.Path) -> Members:
    """Returns the members of a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a zip file of the members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def lying(content: bytes) -> bytes:
    """Returns a zip file whose directory says that its first member has 1,000 bytes, whatever it has."""
    found = bytearray(content)
    place = found.index(b"PK\x01\x02")
    found[place + 24 : place + 28] = (1000).to_bytes(4, "little")
    return bytes(found)


def lying_of_size(members: Members) -> bytes:
    """Returns a `.keras` file whose directory says that the weights take 4 GB of the file."""
    found = bytearray(
        zipped({**{name: members[name] for name in (CONFIG, METADATA)}, WEIGHTS: members[WEIGHTS]})
    )
    place = found.rindex(b"PK\x01\x02")
    found[place + 20 : place + 24] = (2**32 - 2).to_bytes(4, "little")
    return bytes(found)


def with_payloads(members: Members, found: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yields a file for every payload in every place."""
    settings = json.loads(members[CONFIG])
    for payload, content in found.items():
        for place, find in PLACES.items():
            changed = copy.deepcopy(settings)
            parent, key = find(changed)
            if place == "model":
                changed = content
            elif place == "within a list":
                parent[key] = [0.9, {"x": [content]}]
            else:
                parent[key] = content
            yield f"{payload} as {place}", zipped({**members, CONFIG: json.dumps(changed).encode()})


def with_settings(members: Members) -> Iterator[tuple[str, bytes]]:
    """Yields files whose settings ask for too much, or that are no settings."""

    def with_model(**settings: Any) -> bytes:
        changed = json.loads(members[CONFIG])
        changed["config"]["glow"]["config"]["config"].update(settings)
        return json.dumps(changed).encode()

    def with_trainer(**settings: Any) -> bytes:
        changed = json.loads(members[CONFIG])
        changed["config"].update(settings)
        return json.dumps(changed).encode()

    text = members[CONFIG].decode()
    deep = {"num_blocks": 16, "flow_steps": 512, "image_shape": [65536, 65536, 1], "width": 1}
    configs = {
        "the widest model": with_model(width=2**20, flow_steps=512),
        "a wide model": with_model(width=8192),
        "a deep model": with_model(**deep),
        "8192 parts": with_model(**deep, parts=",".join(["1"] * 8192)),
        "balanced parts": with_model(**deep, parts="balanced:4000"),
        "a million blocks": with_model(num_blocks=10**6),
        "a huge image": with_model(image_shape=[65536, 65536, 3]),
        "a huge condition network": with_model(
            condition_shape=[4], condition_features=40_000, condition_depth=16
        ),
        "300,000 classes": with_model(classes=[f"{k}" for k in range(300_000)]),
        "numbers as text": with_model(width="4"),
        "not a number": with_model(width=float("nan")),
        "a setting that there is not": with_model(spline=1),
        "a huge flow head": with_model(parts="1,1", flow_steps=2, local_prior="flow:1048576x512"),
        "text that is nested": b"[" * 100_000,
        "objects that are nested": b'{"config":' * 100_000,
        "no object": b"[]",
        "a number": b"1" * 10_000,
        "no text": b"\xff\xfe" + text.encode("utf-16-le"),
        "UTF-16": text.encode("utf-16"),
        "much text": b" " * 5_000_000 + text.encode(),
        "nothing": b"",
        "two models": (text.rstrip()[:-1] + ', "module": "keras", "class_name": "Sequential"}').encode(),
        "a long name": with_trainer(name="n" * 10**6),
        "a phase of part 10^8": with_trainer(phases=[["mixed", [0], [10**8]]]),
        "a pattern": text.replace('"clipvalue": null', '"exclude_layers": ["(a+)+$"]').encode(),
    }
    for name, content in configs.items():
        yield name, zipped({**members, CONFIG: content})


def with_archives(members: Members) -> Iterator[tuple[str, bytes]]:
    """Yields zip files that are not three members."""
    evil = b"evil"
    for name in (
        "../../evil",
        "/tmp/evil",
        "assets/x/../../../evil",
        "assets/",
        "model.weights.npz",
        "a\\..\\b",
    ):
        yield f"a further member {name}", zipped({**members, name: evil})
    without = {name: member for name, member in members.items() if name != WEIGHTS}
    array = io.BytesIO()
    np.savez(array, x=np.array([{}], dtype=object))  # pickled
    yield "pickled weights", zipped({**without, "model.weights.npz": array.getvalue()})
    yield "weights in shards", zipped({**without, "model.weights.json": b"{}"})
    yield "no weights", zipped(without)
    yield "no settings", zipped({name: member for name, member in members.items() if name != CONFIG})
    yield "a bomb of weights", zipped({**members, WEIGHTS: bytes(10**8)}, zipfile.ZIP_DEFLATED)
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED):
        yield f"settings compressed in way {kind}", lying(zipped({**members, CONFIG: b" " * 10**7}, kind))
    yield "a bomb of settings", zipped({**members, CONFIG: b" " * 10**8}, zipfile.ZIP_DEFLATED)
    content = bytearray(zipped(members))
    twice = io.BytesIO(content)
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr(CONFIG, members[CONFIG])
    yield "settings twice", twice.getvalue()
    place = content.rindex(b"PK\x01\x02")
    content[place + 8] |= 1
    yield "an encrypted member", bytes(content)
    yield "no zip file", members[WEIGHTS]
    yield "an empty file", b""
    yield "half a file", zipped(members)[:3000]


def attempt(
    files: dict[str, bytes | int | None], secret: pathlib.Path, folder: pathlib.Path
) -> Callable[[], None]:
    """Writes crafted files, and returns a function that opens them as a model.

    The function raises what `open_model` does, and RuntimeError if it runs what they name.

    Args:
      files: name → content; a `.keras` file alone, or those of a preset. A number makes a file of that size
        with a hole, and None a pipe.
      secret: the file that a successful attack writes.
      folder: to write into.
    """
    for name, content in files.items():
        if content is None:
            os.mkfifo(folder / name)
        elif isinstance(content, int):
            (folder / name).touch()
            os.truncate(folder / name, content)
        else:
            (folder / name).write_bytes(content)
    path = next((folder / name for name in files if name.endswith(".keras")), folder)

    def open_it() -> None:
        try:
            use.open_model(path)
        finally:
            if secret.exists() or Registered.made:
                secret.unlink(missing_ok=True)
                Registered.made.clear()
                raise RuntimeError("what the file names was run")

    return open_it


def weights_files(content: bytes, folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yields HDF5 files of weights that refer elsewhere, claim too much, or hold no numbers.

    Args:
      content: a sound file of weights.
      folder: where a secret is, and where files may be written.
    """
    (folder / "secret.bin").write_bytes(bytes(10**5))
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = np.zeros(4, np.float32)

    def changed(change: Callable[[h5py.File, str], None]) -> bytes:
        path = folder / "weights.h5"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            found: list[str] = []
            file.visititems(lambda n, i: found.append(n) if isinstance(i, h5py.Dataset) and i.ndim else None)
            change(file, found[0])
        return path.read_bytes()

    def replaced(make: Callable[[h5py.File, str, tuple[int, ...]], Any]) -> Callable[[h5py.File, str], None]:
        def change(file: h5py.File, name: str) -> None:
            shape = file[name].shape
            del file[name]
            make(file, name, shape)

        return change

    def virtual(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape)
        file.create_virtual_dataset(name, layout)

    def external(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
        where = [(str(folder / "secret.bin"), 0, 4 * int(np.prod(shape)))]
        file.create_dataset(name, shape, "f4", external=where)

    def set_to(value: Any) -> Callable[[h5py.File, str], None]:
        return replaced(lambda file, name, shape: file.__setitem__(name, value))

    def create(**how: Any) -> Callable[[h5py.File, str], None]:
        return replaced(lambda file, name, shape: file.create_dataset(name, **{"shape": shape, **how}))

    def deep(file: h5py.File, name: str) -> None:
        group = file
        for _ in range(200):
            group = group.create_group("g")

    yield "external storage", changed(replaced(external))
    yield "a virtual data set", changed(replaced(virtual))
    yield "a link to another file", changed(set_to(h5py.ExternalLink(str(folder / "secret.h5"), "x")))
    yield "a link to a device", changed(set_to(h5py.ExternalLink("/dev/zero", "x")))
    yield "a soft link", changed(set_to(h5py.SoftLink("/vars")))
    yield "a soft link to itself", changed(replaced(lambda f, n, s: f.__setitem__(n, h5py.SoftLink(f"/{n}"))))
    yield "a circle", changed(lambda file, name: file.__setitem__("circle", file["/"]))
    yield "a name for another", changed(lambda file, name: file.__setitem__("again", file[name]))
    yield "terabytes that are not there", changed(create(shape=(2**20, 2**20), dtype="f4", chunks=(64, 64)))
    yield "gigabytes at once", changed(create(shape=(2**14, 2**14), dtype="f4"))
    yield "a bomb of gzip", changed(set_to_zeros(replaced))
    yield "chunks that inflate to more", changed(replaced(inflating))
    yield "gzip twice", changed(replaced(zipped_twice))
    yield (
        "a huge chunk",
        changed(create(shape=(4, 4), dtype="f4", chunks=(2**14, 2**14), maxshape=(None, None))),
    )
    yield "another filter", changed(create(dtype="f4", compression="lzf"))
    yield "texts", changed(create(shape=(4,), dtype=h5py.string_dtype()))
    yield "references", changed(create(shape=(4,), dtype=h5py.ref_dtype))
    yield "records", changed(create(shape=(4,), dtype=np.dtype([("a", "f4"), ("b", "i8")])))
    yield "complex numbers", changed(create(dtype="c8"))
    yield "opaque bytes", changed(create(shape=(4,), dtype="V1000"))
    yield "lists of any length", changed(create(shape=(4,), dtype=h5py.vlen_dtype("f4")))
    yield "a type alone", changed(replaced(lambda file, name, shape: file.__setitem__(name, np.dtype("f4"))))
    for value in (np.nan, np.inf, 3e38, 2.0**62):
        yield f"weights of {value:.3g}", changed(lambda file, name, value=value: fill(file[name], value))
    yield "an array that no weight has", changed(lambda file, name: fill(file.create_dataset("x", (9,)), 1.0))
    yield "other names", changed(lambda file, name: file.move(name[: name.index("/vars/")], "other"))
    yield "many groups", changed(many_groups)
    yield "many chunks", changed(replaced(many_chunks))
    yield "groups in groups", changed(deep)
    yield "a weight of another shape", changed(create(shape=(7, 7), dtype="f4"))
    yield "a weight too few", changed(replaced(lambda file, name, shape: None))
    yield "half a file of weights", content[: len(content) // 2]
    yield "no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(1000)
    empty = io.BytesIO()
    h5py.File(empty, "w").close()
    yield "an empty HDF5 file", empty.getvalue()


def fill(item: h5py.Dataset, value: float) -> None:
    """Sets all numbers of an array."""
    item[...] = value


def many_groups(file: h5py.File, name: str) -> None:
    """Makes 33,000 groups."""
    for k in range(33_000):
        h5py.h5g.create(file.id, f"g{k}".encode())


def many_chunks(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """Puts an array of 20,000 chunks in the place of a weight."""
    made, content = (
        file.create_dataset(name, (20_000,), "f4", chunks=(1,), compression="gzip"),
        zlib.compress(bytes(4)),
    )
    for k in range(20_000):
        made.id.write_direct_chunk((k,), content)


def inflating(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """Puts an array in the place of a weight, one chunk of which is 100 MB of zeros and claims 4 kB."""
    made = file.create_dataset(name, (1024,), "f4", chunks=(1024,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(10**8)))


def zipped_twice(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """Puts an array in the place of a weight that two filters inflate."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1024,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((1024,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, plist)


def set_to_zeros(replaced: Callable) -> Callable[[h5py.File, str], None]:
    """Returns a change that puts compressed zeros in the place of a weight, 100 MB of them."""

    def make(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
        file.create_dataset(name, data=np.zeros(25_000_000, np.float32), compression="gzip", chunks=(10**6,))

    return replaced(make)


def keras_files(folder: pathlib.Path, secret: pathlib.Path) -> Iterator[tuple[str, bytes | None]]:
    """Yields the name and the bytes of every crafted `.keras` file; see `attempt`.

    Args:
      folder: of `write_bases`.
      secret: the file that a successful attack writes.
    """
    members = members_of(folder / "trainer.keras")
    yield from with_payloads(members, payloads(folder, secret))
    yield from with_settings(members)
    yield from with_archives(members)
    yield "a lie of the archive", lying_of_size(members)
    yield "a pipe", None
    for name, weights in weights_files(members[WEIGHTS], folder):
        yield f"{name}, in a .keras file", zipped({**members, WEIGHTS: weights})


def presets(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, bytes | int]]]:
    """Yields the name and the files of every crafted preset, without the checksum that would find it."""
    files = {name: (folder / "preset" / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    settings = json.loads(files[CONFIG])
    settings.pop("weights_sha256", None)
    files[CONFIG] = json.dumps(settings).encode()
    for name, weights in weights_files(files[WEIGHTS], folder):
        yield f"{name}, in a preset", {**files, WEIGHTS: weights}
    for size in (3 * 2**30, 2**40):
        yield f"a hole of {size >> 30} GiB", {**files, WEIGHTS: size}
    long = {**settings, "about": {"data": [[]] * 10**6}}
    yield "long settings", {**files, CONFIG: json.dumps(long).encode() + b" " * 2**22}
    wide = copy.deepcopy(settings)
    wide["model"]["width"] = 8192
    yield "a wide preset", {**files, CONFIG: json.dumps(wide).encode()}
    settings["weights_sha256"] = "0" * 64
    yield "another checksum", {**files, CONFIG: json.dumps(settings).encode()}


def crafted(folder: pathlib.Path) -> dict[str, Iterator[tuple[str, Callable]]]:
    """Returns the files that an attacker would craft: kind → names, and what tries one in an empty folder."""
    secret = folder / "secret"
    write_bases(folder, secret)
    tries = functools.partial(functools.partial, attempt)
    return {
        "crafted .keras files": (
            (name, tries({"m.keras": file}, secret)) for name, file in keras_files(folder, secret)
        ),
        "crafted presets": ((name, tries(files, secret)) for name, files in presets(folder)),
    }
