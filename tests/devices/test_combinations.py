"""Every strategy with every schedule, precision and way of backpropagation: docs/distributed.md's table."""

import functools
import itertools

import pytest
from helpers import config, flags, rows_of, together, train

from glow_tf.architectures.schedule import SCHEDULES

pytestmark = pytest.mark.slow

PRECISIONS = {"float32": 2e-3, "mixed_bfloat16": 2e-2}  # → how far final bits/dim may be apart
PRIORS = ("standard", "flow:4x1")
TINY = {
    "train_examples": 128,
    "flow_steps": 1,
    "parts": "by_block:2",
    "part_epochs": 2,
    "finetune_epochs": 1,
    "export": False,
    "tensorboard": False,
    "sample_every": 0,
}


@pytest.fixture(scope="module")
def bpd_of(tmp_path_factory):
    """Trains, once for each combination, and returns the final bits/dim."""

    @functools.cache
    def bpd(**settings):
        folder = tmp_path_factory.mktemp("run") / "run"
        return train(config(folder, **TINY, **settings))["test_bpd"]

    return bpd


@pytest.mark.parametrize("local_prior", PRIORS)
@pytest.mark.parametrize("strategy", ["mirrored", "part_parallel"])
@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_combination_ends_where_one_device_does(
    schedule, precision, reversible, strategy, local_prior, bpd_of
):
    own = {"schedule": schedule, "precision": precision, "local_prior": local_prior}
    expected = bpd_of(**own, reversible=False, strategy="one_device")
    found = bpd_of(**own, reversible=reversible, strategy=strategy)
    assert found == pytest.approx(expected, abs=PRECISIONS[precision])


@pytest.mark.parametrize(("reversible", "local_prior"), zip([False, True], PRIORS, strict=True))
@pytest.mark.parametrize(("schedule", "precision"), zip(SCHEDULES, itertools.cycle(PRECISIONS)))
def test_workers_end_where_one_device_does(schedule, precision, reversible, local_prior, bpd_of, tmp_path):
    settings = {"schedule": schedule, "precision": precision, "local_prior": local_prior}
    expected = bpd_of(**settings, reversible=False, strategy="one_device")
    own = {**TINY, **settings, "reversible": reversible, "strategy": "multi_worker"}
    processes = together(*flags(tmp_path / "run", **own))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert float(rows_of(tmp_path / "run")[-1]["test_bpd"]) == pytest.approx(
        expected, abs=PRECISIONS[precision]
    )
