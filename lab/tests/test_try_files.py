"""The files of the page `try.md`: weights are kept once, and no other runtime is taken."""

import functools
import gzip

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.use.exports import to_onnx
from lab import try_page


def multiplied(matrix, x):
    return {"y": tf.matmul(x, matrix)}


def test_graphs_share_their_weights(tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    matrix = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    models = {}
    for rows in (1, 3):
        specs = [tf.TensorSpec((rows, 32), tf.float32, "x")]
        models[f"of_{rows}"] = to_onnx(functools.partial(multiplied, matrix), specs)
    files = try_page.with_shared_weights(models)
    for name, content in files.items():
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    assert (tmp_path / "weights.bin").read_bytes() == matrix.tobytes()
    for rows in (1, 3):
        x = np.ones((rows, 32), np.float32)
        (y,) = runtime.InferenceSession(tmp_path / f"of_{rows}.onnx").run(None, {"x": x})
        np.testing.assert_allclose(y, x @ matrix, rtol=1e-5)


def npm(folder, script):
    """Makes a program `npm` that runs a line of shell."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no network' >&2; exit 1", r"must fetch onnxruntime-web.*Received: no network"),
        ("echo other > a.tgz", "must have SHA-256"),
    ],
)
def test_a_runtime_that_npm_does_not_bring_is_an_error(script, message, tmp_path, monkeypatch):
    npm(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ConfigError, match=message):
        try_page.runtime_files()


def test_npm_itself_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs npm"):
        try_page.runtime_files()
