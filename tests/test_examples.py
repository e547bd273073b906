"""The scripts in examples/: each one runs in an empty folder and prints what it promises."""

import argparse
import http.server
import importlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import ROOT, perturb, small_levels

import glow_tf
from glow_tf.commands import cli
from glow_tf.use.score import kept, lite0

TFDS = ROOT.parent / "shared" / "tfds"
OF_CIFAR10 = ("denoising", "super_resolution", "unusual_where")

# Per script, regular expressions; each must be found in what the script prints.
EXAMPLES = {
    "denoise_and_inpaint": (
        r"noisy 21\.8 dB, the best blur 22\.5 dB, likeliest 25\.\d dB",
        r"a square filled: harmonic 20\.2 dB, likeliest 22\.\d dB",
    ),
    "denoising": (
        r"clean images: 3\.[78]\d\d bits/dim given noisy ones, 4\.[01]\d\d without",
        r"error, noisy: 6\d\d\.\d levels²\n.*, blurred by 0\.7 pixels: 2[01]\d\.\d levels²",
        r"error, temperature 0: 1[2-5]\d\.\d levels²\n.*, mean of 8 draws: 1[2-5]\d\.\d levels²",
        r"what the draws' deviation says of their mean's: 1[3-9]\d\.\d levels²",
    ),
    "keras_tuner_search": (
        r"coarse_steps [246], fine_steps [246], learning_rate 0\.[012]",
        r"the best of 3 trials: 2\.[5-9]\d\d bits/dim",
    ),
    "keras_user": (
        r"Epoch 10/10\n.* - val_loss: 3\.[23]",
        r"averaged weights 3\.[23]\d\d bits/dim, best epoch 3\.[23]\d\d bits/dim",
    ),
    "levels_in_one_file": (r"epoch 1: 2\.\d\d\d bits/dim", r"epoch 15: 2\.[23]\d\d bits/dim of test images"),
    "linear_probe": (
        r"not trained: [45]\.\d\d\d bits/dim .*\nsimultaneous: 2\.[34]\d\d .*\nend_to_end: 2\.[12]",
        r"a linear classifier on 360 test images; of the pixels 9[67]\.\d%",
        r"part 1, 64 numbers +9\d\.\d% +9\d\.\d% +9\d\.\d%\npart 2, 32 .*\npart 3, 32 .* 8\d\.\d% +[78]\d",
    ),
    "own_transform": (r"splines: 2\.[01]\d\d bits/dim",),
    "photographer": (
        r"Left out photographs/landscapes/cut_off\.jpg: image file is truncated",
        r"Enlarged: 1 of 153 images, which are smaller than 16×16, by a factor of up to 1\.6\.",
        r"Turned upright, as their EXIF data say: 30 of 153 images\.",
        r"Not read: 1 × \.heic, 1 × \.txt\.",
        r"Resuming after epoch 5\.\n(… .*\n)?epoch 6/10 ",
        r"init_from: the weights are those of photographs/runs/landscapes",
        r"the least usual sunsets, in bits/dim:\n  test_card\.png: (8|9|1\d)\.",
        r"test sunsets: (6\.[6789]|7\.0)\d bits/dim by the landscapes' model, 6\.[234]\d after",
    ),
    "serving_client": (
        r"digits: 1\.[789]\d\d bits/dim, a batch of 64",
        r"empty images: [01]\.\d\d\d bits/dim, a batch of 64",
    ),
    "super_resolution": (
        r"bits of the details: 2\.[67]\d\d bits/dim of the image, 3\.7\d\d as a Gaussian around bicubic",
        r"error, temperature 0: 1[34]\d\.\d levels²\n.*, bicubic: 177\.\d levels²\n",
        r"error, bicubic, means put right: 15\d\.\d levels²",
    ),
    "tfp_user": (
        r"dtype float32, event shape \(8, 8, 1\), batch shape \(\)",
        r"mean log_prob of the test digits: (-1\d\d\.\d) nats\n"
        r"the same by the flow itself: +\1 nats",
        r"contrast: 1\.[23]\d ± 0\.0\d, true 1\.30, R-hat (1\.0|0\.9)",
        r"brightness: [12]\.\d\d ± 0\.[01]\d, true 2\.00, R-hat (1\.0|0\.9)",
    ),
    "unusual_where": (
        r"the network: [56]\d% of its training images are classified correctly",
        r"Glows: AUROC 0\.7\d\d for images with a square, 0\.8\d\d for where it is",
        r"Gaussians: AUROC 0\.[67]\d\d for images with a square, 0\.7\d\d for where it is",
        r"log-densities of whole maps: AUROC 0\.[56]\d\d at the first scale, 0\.[56]\d\d at",
    ),
}


@pytest.mark.slow  # .ci/run runs them
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_promises(name, tmp_path):
    if name in OF_CIFAR10 and not TFDS.exists():
        pytest.skip("the prepared CIFAR-10 is not here")
    if name == "keras_tuner_search":
        pytest.importorskip("keras_tuner")
    arguments = [f"--data_dir={TFDS}"] if name in OF_CIFAR10 else []
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    for pattern in EXAMPLES[name]:
        assert re.search(pattern, result.stdout), f"{pattern}\nis not in\n{result.stdout}"


def test_the_transform_of_the_example_is_a_bijection_with_its_jacobian(rng, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spline = importlib.import_module("own_transform").Spline(bins=4)
    b = tf.constant(np.concatenate([rng.normal(size=60), [-9.0, -3.0, 3.0, 9.0]]).reshape(1, 4, 4, 4))
    read = spline.parameters(tf.constant(rng.normal(0, 2, (1, 4, 4, 4 * spline.outputs_per_channel))))
    with tf.GradientTape() as tape:
        tape.watch(b)
        y, log_det = spline.forward(b, *read)
    slopes = tape.gradient(y, b)  # each number of y depends on one of b
    np.testing.assert_allclose(log_det, [np.sum(np.log(slopes))], rtol=1e-10)
    back, inverse_log_det = spline.inverse(y, *read)
    np.testing.assert_allclose(back, b, atol=1e-12)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-10)
    zeros = spline.parameters(tf.zeros([1, 4, 4, 4 * spline.outputs_per_channel], tf.float64))
    np.testing.assert_allclose(spline.forward(b, *zeros)[0], b, atol=1e-12)


@pytest.fixture
def in_one_file(monkeypatch):
    """The page of levels, whose layers are of float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield importlib.import_module("levels_in_one_file")
    keras.config.set_dtype_policy(before)


def test_levels_in_one_file_are_one_page_of_plain_keras(in_one_file):
    page = (ROOT / "examples" / "levels_in_one_file.py").read_text()
    assert page.count("\n") < 300
    assert set(re.findall(r"^ *(?:import|from) (\w+)", page, re.MULTILINE)) == {
        "keras",
        "math",
        "numpy",
        "sklearn",
    }


def as_on_the_page(part, values):
    """Takes values of a part's weights apart as the page has them: a stack has those of all steps in one."""
    steps, prior, features = (
        [value for weight, value in zip(part.trainable_variables, values, strict=True) if of in weight.path]
        for of in ("flow_steps/", "prior/", "features/")
    )
    if features:
        steps[3], steps[4] = steps[4], steps[3]  # the kernel that reads features follows the first of a
    rows = [np.array(own)[k] for k in range(steps[0].shape[0]) for own in steps]
    return rows + [np.array(own) for own in prior + features]


@pytest.mark.parametrize("levels", [1, 2])
def test_levels_in_one_file_have_the_likelihood_gradients_and_samples_of_the_package(
    in_one_file, levels, rng, monkeypatch
):
    shape = (8 << levels - 1, 8, 1)
    flow = small_levels("float64", image_shape=shape, num_blocks=levels, n_bits=5, permutation="plain")
    perturb(flow)
    parts = [in_one_file.Level(2, width=6, features=4) for _ in range(levels)]
    parts.append(in_one_file.Coarsest(2, width=6))
    images = rng.integers(0, 32, size=(3, *shape))
    v = tf.constant(images + rng.uniform(size=images.shape))
    y = v / 32 - 0.5
    in_one_file.log_likelihood(parts, y)
    for mine, packaged in zip(parts, flow.parts, strict=True):
        mine.set_weights(as_on_the_page(packaged, packaged.trainable_variables))
    h = y
    for mine, packaged in zip(parts, flow.parts, strict=True):
        for layer in mine._flatten_layers():
            if isinstance(layer, in_one_file.ActNorm):
                layer.is_set = layer.factor == 3
        mine(h)
        h = packaged.initialize(h)
        expected = as_on_the_page(packaged, packaged.trainable_variables)
        for own, other in zip(mine.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-5)
        mine.set_weights(expected)

    with tf.GradientTape(persistent=True) as tape:
        found = in_one_file.log_likelihood(parts, y)
        expected = flow.dequantized_log_prob(v)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    for mine, packaged in zip(parts, flow.parts, strict=True):
        gradients = tape.gradient(found, [w.value for w in mine.trainable_variables])
        others = tape.gradient(expected, [w.value for w in packaged.trainable_variables])
        for own, other in zip(gradients, as_on_the_page(packaged, others), strict=True):
            assert np.max(np.abs(own)) > 0
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-7)

    latents, h = [], y
    for part in flow.parts:
        output = part.call(h)
        h = output.h
        latents += output.latents
    latents.append(flow.parts[-1].base.forward_and_log_det(h)[0])
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: latents.pop())
    np.testing.assert_array_equal(in_one_file.sample(parts, images.shape), images)
    assert not latents


@pytest.mark.slow  # .ci/run runs the slow tests of this file
def test_the_serving_client_speaks_to_a_server_as_tensorflow_serving_does(exported_once, monkeypatch):
    """No package brings TensorFlow's server: this one answers the same requests by the export's signature."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    client = importlib.import_module("serving_client")
    served = tf.saved_model.load(str(exported_once[1])).signatures["serving_default"]

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/glow:predict"
            found = served(images=tf.constant(asked["instances"], tf.uint8))
            columns = {name: values.numpy().tolist() for name, values in found.items()}
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"predictions": rows}).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("localhost", 0), Server) as server:
        server.timeout = 60
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
        bits = client.from_server(f"http://localhost:{server.server_port}/v1/models/glow", images)
        thread.join()
    np.testing.assert_allclose(bits, client.from_folder(str(exported_once[1]), images), rtol=1e-6)


@pytest.mark.long
def test_the_traffic_light_says_of_each_picture_what_the_detector_does(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(ROOT / "examples")
    traffic_light = importlib.import_module("traffic_light")
    rng = np.random.default_rng(0)
    good = rng.integers(90, 110, (40, 16, 16, 3)).astype(np.uint8)
    inputs = keras.Input((16, 16, 3))
    network = keras.Model(inputs, keras.layers.AveragePooling2D(2)(inputs), name=lite0.NAME)
    detector = glow_tf.NoveltyDetector(None, features=network).fit(good)
    detector.save(tmp_path / "detector")
    monkeypatch.setattr(kept, "opened", lambda _: network)  # it has no weights to fetch
    monkeypatch.chdir(tmp_path)
    assert cli.run("export", ["--model=detector", "--format=onnx"]) == 0
    assert cli.run("export", ["--model=detector", "--image_size=8", "--output=other"]) == 1
    assert "fit --image_size chooses. Received: image_size=8" in capsys.readouterr().err
    bad = good[0].copy()
    bad[4:8, 10:14] = 255
    camera = tmp_path / "camera"
    camera.mkdir()
    for name, pixels in (("1.png", good[1]), ("2.png", bad)):
        wide = np.pad(pixels, [(0, 0), (6, 6), (0, 0)])
        Image.fromarray(wide).save(camera / name)
    (camera / "3.jpg").write_bytes(b"half of a picture")
    os.utime(camera / "3.jpg", (0, 0))
    given = argparse.Namespace(
        detector="exported/detector.onnx", camera=camera, red=0.03, yellow=0.1, threads=1, once=True
    )
    for _ in range(2):  # the second time all have been seen
        traffic_light.main(given)
    lines = (camera / "scores.csv").read_text().splitlines()
    expected = detector.p_value(np.stack([good[1], bad]))
    assert [line.split(",")[:3] for line in lines[1:3]] == [
        ["1.png", f"{expected[0]:.4g}", "green"],
        ["2.png", f"{expected[1]:.4g}", "red"],
    ]
    row, column = map(int, lines[2].split(",")[3:])
    assert 3 <= row <= 8
    assert 15 <= column <= 20  # of the picture, whose middle was looked at
    assert lines[3].startswith('3.jpg,,"unreadable: ') or lines[3].startswith("3.jpg,,unreadable: ")
    assert len(lines) == 4


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*EXAMPLES, "traffic_light"}


TINY = (
    "--dataset=digits --n_bits=5 --train_examples=64 --test_examples=32 --architecture=levels --num_blocks=1 "
    "--flow_steps=2 --width=8 --schedule=simultaneous --part_epochs=1 --finetune_epochs=0 --batch_size=32 "
    "--sample_every=0 --export=false --tensorboard=false"
)


def scheduled(command, tmp_path, **variables):
    """Starts a command as a scheduler of a cluster does, with its variables; `srun` runs what it is given."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text('#!/bin/bash\nexec "${@:2}"\n')  # $1 is --cpus-per-task
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "MODEL": TINY, "RUNS": str(tmp_path / "runs"), **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **own}, **pipes)


def finished(*processes):
    """Returns what the processes printed; each must end without an error."""
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), outputs
    return outputs


def pod(name, index):
    """Returns what the pod with this index of a Job in examples/ runs, and what Kubernetes tells it."""
    yaml = pytest.importorskip("yaml")  # huggingface_hub brings it
    *_, job = yaml.safe_load_all((ROOT / "examples" / name).read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"]) == ("Job", "Indexed")
    assert index < spec["completions"]
    (container,) = spec["template"]["spec"]["containers"]
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    assert {"MODEL", "RUNS"} <= set(values)  # the test has its own
    return [*container["command"], *container["args"]], {"JOB_COMPLETION_INDEX": str(index)}


@pytest.mark.slow  # .ci/run runs the slow tests of this file
def test_slurm_and_kubernetes_train_parts_that_are_one_model(tmp_path):
    """No scheduler is here: the test sets the variables that it would, and runs the commands of its files."""
    slurm = {
        "SLURM_JOB_ID": "8",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    script = ROOT / "examples" / "levels.sbatch"
    first = scheduled(["bash", str(script)], tmp_path, **slurm)
    command, told = pod("levels.yaml", 1)
    finished(first, scheduled(command, tmp_path, **told))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["part_1", "part_2"]
    (again,) = finished(scheduled(["bash", str(script)], tmp_path, **slurm))  # a job that is queued again
    assert "epoch 1/1" not in again
    parts = "--workdirs=runs/part_1,runs/part_2"
    finished(scheduled(["glow-tf", "assemble", parts, "--output=whole"], tmp_path))
    assert glow_tf.load(str(tmp_path / "whole")).sample(2, seed=0).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_workers_of_kubernetes_find_one_another(tmp_path):
    with socket.socket() as one, socket.socket() as other:
        for listener in (one, other):
            listener.bind(("localhost", 0))
        hosts = ", ".join(f'"localhost:{listener.getsockname()[1]}"' for listener in (one, other))
    pods = (pod("workers.yaml", index) for index in range(2))
    finished(*[scheduled(command, tmp_path, HOSTS=hosts, **told) for command, told in pods])
    assert json.loads((tmp_path / "runs" / "workers" / "summary.json").read_text())["epochs"] == 1
