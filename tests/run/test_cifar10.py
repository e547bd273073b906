"""Real images, end to end; skipped where the prepared CIFAR-10 is not beside the project."""

import json

import numpy as np
import pytest
from small import ROOT, run_main, run_program

from glow_tf import DataConfig, data

TFDS = ROOT.parent / "shared" / "tfds"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TFDS.exists(), reason="the prepared CIFAR-10 is not here"),
]

ALONE = """
import sys
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
for batch in np.split(images, 10):
    assert (loaded.decode(loaded.encode(batch)).numpy() == batch).all()
bpd = np.concatenate([loaded.bits_per_dim(batch, 0).numpy() for batch in np.split(images, 10)])
assert np.isfinite(bpd).all()
assert "glow_tf" not in sys.modules
print(bpd.mean())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10") / "run"
    run_main(
        "--flagfile=configs/cifar10_small_across_2.cfg",
        f"--data_dir={TFDS}",
        f"--workdir={folder}",
        "--train_examples=3200",
        "--test_examples=1000",
        "--flow_steps=4",
        "--width=64",
        "--part_epochs=2",
        "--finetune_epochs=1",
    )
    return folder


def test_round_trip_is_exact_for_1000_test_images_with_tensorflow_alone(trained, tmp_path):
    test = data.load(DataConfig("cifar10", str(TFDS), train_examples=1, test_examples=1000)).test
    np.save(tmp_path / "images.npy", test)
    printed = run_program(ALONE, trained / "export", tmp_path / "images.npy", cwd=tmp_path)
    summary = json.loads((trained / "summary.json").read_text())
    # Another draw of the noise, so equal to a few standard errors of that draw alone.
    assert float(printed) == pytest.approx(summary["test_bpd"], abs=0.01)


def test_samples_are_finite_at_every_temperature(trained):
    import glow_tf

    flow = glow_tf.load(trained)
    for temperature in np.arange(0.5, 1.01, 0.1):
        v = flow.sample_dequantized(100, temperature, 0).numpy()
        assert np.isfinite(v).all()


def test_training_beats_the_uniform_density_by_far(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["test_bpd"] < 5.0
