"""Models without TensorFlow: ONNX and LiteRT compute what the model computes."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from small import make_small_images, perturb, small_glow

from glow_tf.commands import cli
from glow_tf.errors import ConfigError
from glow_tf.use import export_litert, export_onnx


@pytest.fixture(scope="module")
def images():
    return make_small_images(np.random.default_rng(0))


@pytest.fixture(scope="module")
def glow(images):
    glow = small_glow()
    glow.initialize(images)
    glow.parts[0].set_reversible(True)  # as after training with it
    return glow


def check(glow, images, run):
    """Compares `run(file, input)`, a dict of outputs, with the model, at two batch sizes."""
    for count in (1, 7):
        batch = images[:count]
        (eps,) = run("encode", batch).values()
        np.testing.assert_allclose(eps, glow.encode(batch), rtol=1e-4, atol=1e-4)
        (decoded,) = run("decode", eps).values()
        np.testing.assert_array_equal(decoded, batch)
        scores, expected = run("score", batch), glow.score(batch)
        assert set(scores) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(scores[name], values, rtol=1e-4)


@pytest.mark.slow
def test_onnx_computes_what_the_model_does(glow, images, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    paths = export_onnx(glow, tmp_path / "onnx")
    sessions = {path.stem: runtime.InferenceSession(path) for path in paths}

    def run(name, batch):
        session = sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {session.get_inputs()[0].name: batch}), strict=True))

    assert set(sessions) == {"encode", "decode", "score"}
    check(glow, images, run)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # TensorFlow announces the interpreter's new package
@pytest.mark.parametrize("channels", [1, 12])  # 48 in the flow step: its converter folds small matrices only
def test_litert_computes_what_the_model_does(channels, tmp_path):
    rng = np.random.default_rng(0)
    images = np.concatenate([make_small_images(rng) for _ in range(channels)], axis=-1)
    glow = small_glow(image_shape=images.shape[1:], perturbed=False)
    perturb(glow, 0.02)
    glow.initialize(images)
    paths = export_litert(glow, tmp_path / "lite")
    interpreters = {path.stem: tf.lite.Interpreter(str(path)) for path in paths}

    def run(name, batch):
        (signature,) = interpreters[name].get_signature_list()
        runner = interpreters[name].get_signature_runner(signature)
        (argument,) = runner.get_input_details()
        return runner(**{argument: batch})

    check(glow, images, run)


def test_onnx_without_its_package_says_what_to_install(glow, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ConfigError, match=r"in a clone: pip install '.\[onnx\]'"):
        export_onnx(glow, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_the_command_writes_each_format(tmp_path, capsys):
    small_glow(num_blocks=1, flow_steps=1, parts="1").save_to_preset(tmp_path / "small")
    for name in ("savedmodel", "litert"):
        arguments = [f"--model={tmp_path / 'small'}", f"--format={name}", f"--output={tmp_path / name}"]
        assert cli.run("export", arguments) == 0
    assert (tmp_path / "savedmodel" / "saved_model.pb").exists()
    assert {path.name for path in (tmp_path / "litert").iterdir()} == {
        *("encode.tflite", "decode.tflite", "score.tflite")
    }
    assert "score.tflite" in capsys.readouterr().out
    assert cli.run("export", ["--model=digits", "--format=pickle"]) == 1
    assert "savedmodel" in capsys.readouterr().err
