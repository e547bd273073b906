"""What the callbacks of a run write of an epoch."""

import keras
import numpy as np
from helpers import config
from small import small_glow

import glow_tf
from glow_tf import PartsTrainer, data, phases
from glow_tf.run import lifecycle
from glow_tf.run.callbacks import EpochRecord, FillPrefixCaches
from glow_tf.run.epoch import EpochResult, computed
from glow_tf.run.workdir import Workdir
from glow_tf.schedule import Phase
from glow_tf.training.traffic import Traffic


def test_workers_but_the_first_write_no_history(tmp_path, small_images):
    """Their disks may be full."""
    folder, result = Workdir(config(tmp_path / "run")), EpochResult()
    trainer = PartsTrainer(small_glow(flow_steps=1, num_blocks=1, parts="1"), phases("end_to_end", 1, 1))
    trainer.compile("sgd")
    test = data.evaluation_batches(small_images, 32, seed=0)
    record = EpochRecord(folder, 64, test, None, 0, result, writes=False)
    callbacks = [FillPrefixCaches([0], None, result), record]
    trainer.fit(small_images, batch_size=32, callbacks=callbacks, verbose=0)
    folder.close()
    assert np.isfinite(result.test[0])
    assert not (folder.path / "history.csv").exists()


class StopAmid(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


def test_a_callback_that_stops_amid_an_epoch_stops_a_run_at_its_end(tmp_path):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 3, "finetune_epochs": 0}
    settings = config(tmp_path / "run", **one, tensorboard=False, export=False)
    summary = lifecycle.train(settings, None, [StopAmid()])
    assert summary["epochs"] == 1
    trainer = glow_tf.load_trainer(tmp_path / "run")
    steps = settings.data.train_examples // settings.train.batch_size
    assert int(trainer.optimizers[0].iterations) == steps > 2
    assert "a callback stopped training after epoch 1 of 3" in " ".join(summary["warnings"])


def test_what_an_epoch_did_not_compute_has_an_empty_cell():
    logs = {"loss": float("nan"), "bpd": float("nan"), "local_bpd_1": 4.0, "local_bpd_2": float("nan")}
    assert computed(logs) == {"local_bpd_1": 4.0}
    assert computed({"loss": 3.0, "bpd": 3.0}) == {"bpd": 3.0}
    assert computed(None) == {}
    result = EpochResult(epoch=1, phase=Phase("part", (0,)), means=computed(logs), traffic=Traffic(0, 0, 0))
    row = result.history_row()
    assert row["local_bpd_1"] == "4.000000"
    assert not {"loss", "train_bpd", "local_bpd_2"} & set(row)
