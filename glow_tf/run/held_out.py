"""What a run's model scores on the images that it does not train on."""

from glow_tf.devices.workers import holds_anywhere, in_several_processes
from glow_tf.run.context import Run
from glow_tf.run.files.workdir import is_out_of_patience
from glow_tf.training.one_level import OneLevel
from glow_tf.training.trainer import PartsTrainer


class HeldOut:
    """Evaluates a run's model on its test images and, if there are any, on its validation images."""

    def __init__(self, run: Run, trainer: PartsTrainer):
        only = run.config.train.only_part
        alone = only and not in_several_processes(run.strategy) and run.strategy.num_replicas_in_sync == 1
        self._run, self._trainer = run, trainer
        self._level = OneLevel(trainer, only - 1) if alone else None

    def scores(self) -> dict[str, tuple[float, float]]:
        """Returns bits/dim and their standard errors, by `test` and `validation`."""
        scores = {}
        with self._trainer.averages.in_place():
            for name, batches in self._run.held_out.items():
                if self._level:
                    found = self._level.evaluate(name, batches)
                else:
                    found = self._trainer.evaluate(batches, verbose=0, return_dict=True)
                scores[name] = (float(found["bpd"]), float(found["bpd_se"]))
        return scores


def loses_patience(run: Run, epochs: int) -> bool:
    """Returns whether a run ends after so many epochs; all processes come here, and the first one decides."""
    patience = run.config.patience
    if not patience:
        return False
    return holds_anywhere(
        run.strategy, run.is_chief and is_out_of_patience(patience, epochs, run.workdir.best_epoch)
    )
