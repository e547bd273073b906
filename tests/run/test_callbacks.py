"""The callbacks of a run: in which order they are, whatever the order in which they are given."""

import itertools

import numpy as np
import pytest
from conftest import small_glow
from helpers import config

from glow_tf import PartsTrainer, data, phases
from glow_tf.run.callbacks import (
    EpochRecord,
    FillPrefixCaches,
    RunCallback,
    SampleGrid,
    SaveCheckpoints,
    arranged,
)
from glow_tf.run.epoch import EpochResult, computed
from glow_tf.run.progress import Progress
from glow_tf.run.tensorboard import TensorBoardByPart
from glow_tf.run.workdir import Workdir
from glow_tf.schedule import Phase
from glow_tf.training.traffic import Traffic

RESULT = EpochResult()


def every_callback():
    return [
        FillPrefixCaches([], None, RESULT),
        EpochRecord(None, 0, None, None, 0, RESULT),
        SampleGrid(None, 1, 0, 255, RESULT),
        TensorBoardByPart(None, "", RESULT),
        SaveCheckpoints(None, RESULT),
        Progress([], RESULT),
    ]


def test_each_callback_comes_after_those_that_fill_in_what_it_needs():
    for given in itertools.permutations(every_callback()):
        filled = set()
        everything = {name for callback in given for name in callback.fills}
        for callback in arranged(given):
            assert set(callback.needs) & everything <= filled
            filled |= set(callback.fills)


def test_what_no_callback_of_the_run_fills_in_is_not_waited_for():
    _, record, _, _, checkpoint, _ = every_callback()
    assert arranged([checkpoint, record]) == [record, checkpoint]


def test_what_is_needed_and_filled_in_exists_in_the_result():
    for callback in every_callback():
        for name in (*callback.needs, *callback.fills):
            assert name == "logged" or hasattr(RESULT, name), name


def test_workers_but_the_first_write_no_history(tmp_path, small_images):
    """Their disks may be full."""
    folder, result = Workdir(config(tmp_path / "run")), EpochResult()
    trainer = PartsTrainer(small_glow(flow_steps=1, parts="1"), phases("end_to_end", 1, 1))
    trainer.compile("sgd")
    test = data.evaluation_batches(small_images, 32, seed=0)
    record = EpochRecord(folder, 64, test, None, 0, result, writes=False)
    callbacks = arranged([FillPrefixCaches([0], None, result), record])
    trainer.fit(small_images, batch_size=32, callbacks=callbacks, verbose=0)
    folder.close()
    assert np.isfinite(result.test[0])
    assert not (folder.path / "history.csv").exists()


def test_a_circle_is_refused():
    class First(RunCallback):
        needs, fills = ("b",), ("a",)

    class Second(RunCallback):
        needs, fills = ("a",), ("b",)

    with pytest.raises(ValueError, match=r"need one another in a circle. Received"):
        arranged([First(RESULT), Second(RESULT)])


def test_what_an_epoch_did_not_compute_has_an_empty_cell():
    logs = {"loss": float("nan"), "bpd": float("nan"), "local_bpd_1": 4.0, "local_bpd_2": float("nan")}
    assert computed(logs) == {"local_bpd_1": 4.0}
    assert computed({"loss": 3.0, "bpd": 3.0}) == {"bpd": 3.0}
    assert computed(None) == {}
    result = EpochResult(epoch=1, phase=Phase("part", (0,)), means=computed(logs), traffic=Traffic(0, 0, 0))
    row = result.history_row()
    assert row["local_bpd_1"] == "4.000000"
    assert not {"loss", "train_bpd", "local_bpd_2"} & set(row)
