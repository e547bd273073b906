"""What the callbacks of a run write of an epoch."""

import io
import time
import types

import keras
import numpy as np
import pytest
from helpers import config, rows_of, train
from small import small_glow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import glow_tf
from glow_tf import ConfigError, PartsTrainer, RunConfig, data, phases
from glow_tf.layout.schedule import one_part
from glow_tf.run import callbacks
from glow_tf.run.callbacks import EpochRecord, FillPrefixCaches
from glow_tf.run.epoch import EpochResult, computed
from glow_tf.run.files.workdir import Workdir
from glow_tf.run.progress import Progress


def test_workers_but_the_first_write_no_history(tmp_path, small_images, eager):
    """Their disks may be full."""
    folder, result = Workdir(config(tmp_path / "run")), EpochResult()
    trainer = PartsTrainer(small_glow(flow_steps=1, num_blocks=1, parts="1"), phases("end_to_end", 1, 1))
    trainer.compile("sgd")
    test = data.evaluation_batches(small_images, 32, seed=0)
    run = types.SimpleNamespace(workdir=folder, config=folder.config, steps_per_epoch=4, is_chief=False)
    run.layouts = ()
    run.held_out, run.checkpoints = {"test": test}, types.SimpleNamespace(epochs=0)
    callbacks = [FillPrefixCaches(run, result), EpochRecord(run, result)]
    trainer.fit(small_images, batch_size=32, callbacks=callbacks, verbose=0)
    folder.close()
    assert np.isfinite(result.test[0])
    assert not (folder.path / "history.csv").exists()


@pytest.mark.parametrize(("steps", "expected"), [(1, 50 - 0), (2, 2 * 2)])
def test_a_step_that_traces_counts_as_long_as_others_of_its_epoch(steps, expected, monkeypatch):
    clock = iter([0, 48])
    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    record = EpochRecord(None, EpochResult(phase=one_part(0)))
    record._traced = set()
    record.set_params({"steps": steps})
    record.on_epoch_begin(0)
    for step in range(steps):
        record.on_train_batch_end(step)
    assert record._training_seconds(50) == expected


class StopAmid(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


def test_a_callback_that_stops_amid_an_epoch_stops_a_run_at_its_end(tmp_path, eager):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 3, "finetune_epochs": 0}
    settings = config(tmp_path / "run", **one, train_examples=96, tensorboard=False, export=False)
    summary = train(settings, StopAmid())
    assert summary["epochs"] == 1
    trainer = glow_tf.load_trainer(tmp_path / "run")
    steps = settings.data.train_examples // settings.train.batch_size
    assert int(trainer.optimizers[0].iterations) == steps > 2
    assert "a callback stopped training after epoch 1 of 3" in " ".join(summary["warnings"])


def test_a_callback_that_would_wait_for_what_a_run_does_not_log_is_refused(tmp_path, eager):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 1, "finetune_epochs": 0}
    settings = config(tmp_path / "run", **one, tensorboard=False, export=False)
    with pytest.raises(ConfigError, match=r"must watch .*EarlyStopping\(monitor='val_loss'\)"):
        train(settings, keras.callbacks.EarlyStopping("val_loss"))


def test_the_error_of_one_test_image_is_unknown(tmp_path, capsys, eager):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 1, "finetune_epochs": 0}
    one |= {"train_examples": 32, "test_examples": 1}
    settings = config(tmp_path / "run", **one, tensorboard=False, export=False)
    for _ in range(2):  # the second time it is read from history.csv and summary.json
        assert train(settings)["test_bpd_se"] is None
    assert rows_of(tmp_path / "run")[0]["test_bpd_se"] == "nan"
    assert "±" not in capsys.readouterr().out


def test_a_terminal_shows_the_steps_of_an_epoch_and_a_log_its_line_alone(monkeypatch, capsys):
    result = EpochResult(seconds=3.0, eval_seconds=1.0, means={"local_bpd_1": 3.0}, test=(4.0, 0.1))
    run = types.SimpleNamespace(costs=[1.0, 2.0])
    phase = one_part(0)
    for shown in (False, True):
        terminal = io.StringIO()
        terminal.isatty = lambda shown=shown: shown
        monkeypatch.setattr("sys.stderr", terminal)
        progress = Progress(run, result)
        progress.set_params({"steps": 4, "epochs": 2})
        progress.set_model(types.SimpleNamespace(phase=phase, phase_of=lambda epoch: phase))
        progress.on_train_begin()
        progress.on_epoch_begin(0)
        for batch in range(4):
            time.sleep(1.1 if batch == 0 else 0.2)
            progress.on_train_batch_end(batch, {"local_bpd_1": 3.0})
        progress.on_epoch_end(0, {})
        assert ("epoch 1/2 · part 1:" in terminal.getvalue()) == shown
        assert ("local_bpd_1 3.0000" in terminal.getvalue()) == shown
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("epoch 1/2 · part 1 · local_bpd_1 3.0000 · test 4.0000 ± 0.1000 bpd")
        assert line.endswith("0:07 left")  # an epoch of twice the cost, and another evaluation


@pytest.mark.slow  # test_prior.py has a run of levels, too
def test_a_first_run_of_levels_draws_ten_grids_at_most(tmp_path, capsys, eager):
    own = {"architecture": "levels", "parts": "1", "num_blocks": 1, "schedule": "simultaneous"}
    own |= {
        "part_epochs": 12,
        "finetune_epochs": 0,
        "batch_size": 16,
        "train_examples": 16,
        "test_examples": 8,
        "export": False,
    }
    train(config(tmp_path / "run", **own, sample_every=RunConfig(workdir="unused").sample_every))
    said = capsys.readouterr().out
    assert "Finished" in said
    grids = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert grids == [f"epoch_{epoch:04d}.png" for epoch in (2, 4, 6, 8, 10, 12)]
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    about = events.SummaryMetadata("bits_of_level/part_1").summary_description
    assert "Negative: the level saves bits" in about


def test_what_an_epoch_did_not_compute_has_an_empty_cell():
    logs = {"loss": float("nan"), "bpd": float("nan"), "local_bpd_1": 4.0, "local_bpd_2": float("nan")}
    assert computed(logs) == {"local_bpd_1": 4.0}
    assert computed({"loss": 3.0, "bpd": 3.0}) == {"bpd": 3.0}
    assert computed(None) == {}
    result = EpochResult(epoch=1, phase=one_part(0), means=computed(logs))
    row = result.history_row()
    assert row["local_bpd_1"] == "4.000000"
    assert not {"loss", "train_bpd", "local_bpd_2"} & set(row)
