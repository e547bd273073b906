"""What the callbacks of a run write of an epoch."""

import keras
import pytest
from helpers import config, rows_of, train

import glow_tf


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


def test_a_callback_that_waits_for_what_a_run_does_not_log_is_told(tmp_path, eager):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 1, "finetune_epochs": 0}
    settings = config(tmp_path / "run", **one, tensorboard=False, export=False)
    with pytest.warns(UserWarning, match="conditioned on metric `val_loss` which is not available"):
        train(settings, keras.callbacks.EarlyStopping("val_loss"))


def test_the_error_of_one_test_image_is_unknown(tmp_path, capsys, eager):
    one = {"num_blocks": 1, "parts": "1", "schedule": "end_to_end", "part_epochs": 1, "finetune_epochs": 0}
    one |= {"train_examples": 32, "test_examples": 1}
    settings = config(tmp_path / "run", **one, tensorboard=False, export=False)
    for _ in range(2):  # the second time it is read from history.csv and summary.json
        assert train(settings)["test_bpd_se"] is None
    assert rows_of(tmp_path / "run")[0]["test_bpd_se"] == "nan"
    assert "±" not in capsys.readouterr().out
