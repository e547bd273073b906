"""Models without TensorFlow: ONNX computes what the model computes."""

import sys

import numpy as np
import pytest
from small import make_small_images, small_glow

import glow_tf
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.model.conditions import of_names
from glow_tf.use import export_onnx

# Maps of more pixels than the flow's, of fewer, and of sides that do not divide; a vector.
GIVEN = {
    "nothing": (),
    "a vector": (5,),
    "a map": (8, 8, 2),
    "a map of sides that do not divide": (6, 6, 1),
    "both by name": {"small": (2, 2, 1), "numbers": (3,)},
}


@pytest.fixture(scope="module")
def images():
    return make_small_images(np.random.default_rng(0))


def make_glow(images, shape):
    """Makes a model that is given something, and what it is given with each image, by name."""
    flow = small_glow(condition_shape=shape, condition_features=3)
    rng = np.random.default_rng(1)
    given = {n: rng.normal(size=(64, *s)).astype(np.float32) for n, s in flow.config.condition_shapes.items()}
    flow.initialize(images, condition=of_names(given))
    return flow, given


def check(flow, images, run, given):
    """Compares `run(file, inputs by name)`, a dict of outputs, with the model, at two batch sizes."""
    for count in (1, 7):
        batch, own = images[:count], {name: values[:count] for name, values in given.items()}
        inputs, condition = {n or "condition": v for n, v in own.items()}, of_names(own)
        (eps,) = run("encode", images=batch, **inputs).values()
        np.testing.assert_allclose(eps, flow.encode(batch, condition=condition), rtol=1e-4, atol=1e-4)
        (decoded,) = run("decode", eps=eps, **inputs).values()
        np.testing.assert_array_equal(decoded, batch)
        scores, expected = run("score", images=batch, **inputs), flow.score(batch, condition)
        assert set(scores) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(scores[name], values, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", GIVEN.values(), ids=GIVEN)
def test_onnx_computes_what_the_model_does(shape, images, tmp_path):
    flow, given = make_glow(images, shape)
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    paths = export_onnx(flow, tmp_path / "onnx")
    sessions = {path.stem: runtime.InferenceSession(path) for path in paths}

    def run(name, **inputs):
        session = sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))

    assert set(sessions) == {"encode", "decode", "score"}
    check(flow, images, run, given)


def test_onnx_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ConfigError, match=r"in a clone: pip install '.\[onnx\]'"):
        export_onnx(small_glow(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_the_command_writes_each_format(tmp_path, capsys):
    pytest.importorskip("tf2onnx")
    glow_tf.save(small_glow(num_blocks=1, flow_steps=1, parts="1"), tmp_path / "small")
    for name in ("savedmodel", "onnx"):
        arguments = [f"--model={tmp_path / 'small'}", f"--format={name}", f"--output={tmp_path / name}"]
        assert cli.run("export", arguments) == 0
    assert (tmp_path / "savedmodel" / "saved_model.pb").exists()
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        *("encode.onnx", "decode.onnx", "score.onnx")
    }
    assert "score.onnx" in capsys.readouterr().out
    assert cli.run("export", ["--model=digits", "--format=pickle"]) == 1
    assert "savedmodel" in capsys.readouterr().err
