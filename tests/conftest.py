"""Shared by all tests: settings of every process, and fixtures; what they make is in small.py."""

import os
import signal

import numpy as np
import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config):
    """Sets TensorFlow's devices before a test does anything.

    The process that hands tests out to others (`-n 2`) runs none, and need not wait for TensorFlow.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # files of few tests are the longest, and would come last
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import small  # noqa: F401


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small_images(rng):
    from small import make_small_images

    return make_small_images(rng)


@pytest.fixture
def eager():
    """Nothing that the test calls is traced."""
    from small import eagerly

    with eagerly():
        yield


@pytest.fixture(scope="module")
def eager_module():
    """Nothing that the tests of the module call is traced, nor what its fixtures do."""
    from small import eagerly

    with eagerly():
        yield


@pytest.fixture
def presets_loaded_once(monkeypatch):
    """Commands that run in this process share the presets of the package."""
    from small import preset_once

    from glow_tf import store
    from glow_tf.store import load as load_glow

    def load(path, *which):
        return preset_once(str(path)) if str(path) in store.names() else load_glow(path, *which)

    monkeypatch.setattr(store, "load", load)


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory):
    """A model and its export, for tests that only read it."""
    from helpers import export_traced
    from small import ENDPOINTS, only_endpoints, small_glow

    folder = tmp_path_factory.mktemp("exported") / "export"
    flow = small_glow(flow_steps=1, num_blocks=1, parts="1")
    with only_endpoints(*ENDPOINTS, "sample"):
        export_traced(flow, folder)
    return flow, folder


@pytest.fixture(scope="session", autouse=True)
def page_of_a_run():
    """Runs leave no report, which takes a second; the fixture `reports` brings it back."""
    from glow_tf.run import finish, lifecycle

    before = finish.write_report
    with pytest.MonkeyPatch.context() as patch:
        for module in (finish, lifecycle):
            patch.setattr(module, "write_report", lambda *args, **kwargs: "")
        yield before


@pytest.fixture
def reports(monkeypatch, page_of_a_run):
    """Runs of the test leave a report."""
    from glow_tf.run import finish, lifecycle

    for module in (finish, lifecycle):
        monkeypatch.setattr(module, "write_report", page_of_a_run)
