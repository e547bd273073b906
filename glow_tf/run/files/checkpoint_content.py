"""What a checkpoint holds, and how it is read."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from glow_tf.core.errors import in_one_line
from glow_tf.core.tensor_files import check_finite
from glow_tf.training.trainer import PartsTrainer

_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # what TensorFlow adds to a variable's name in a checkpoint


def state_of(trainer: PartsTrainer) -> dict[str, Any]:
    """Returns the variables of a trainer's model and optimizers, as checkpoints name them."""
    objectives = trainer.local_objectives
    optimizers = list(map(_without_numbers, trainer.optimizers, objectives))
    state = {"model": by_path(trainer.glow.variables), "optimizers": optimizers}
    own = [{f"{k}": v.value for k, v in enumerate(o.variables)} for o in objectives]
    return state | ({"objectives": own} if any(own) else {})


def _without_numbers(
    optimizer: keras.optimizers.Optimizer, objective: keras.layers.Layer
) -> dict[str, tf.Variable]:
    """Returns an optimizer's variables by names without those that Keras numbers in each process.

    These are the optimizer's own, and those of the layers of an objective.
    """
    found = {}
    numbered = {v.path.replace("/", "_"): f"objective_{k}" for k, v in enumerate(objective.variables)}
    for path, value in by_path(optimizer.variables).items():
        name = path.split("/", 1)[1]
        for start, instead in numbered.items():
            name = f"{instead}{name.removeprefix(start)}" if name.startswith(start) else name
        found[name] = value
    return found


def within_epoch_of(trainer: PartsTrainer) -> dict[str, Any]:
    """Returns what a trainer knows of the running epoch, as checkpoints name it."""
    return {"means": trainer.logs.means.variables}


def epochs_and_steps(path: str) -> tuple[int, list[int]]:
    """Returns the finished epochs of a checkpoint, and the number of steps that trained each part."""
    with readable(path):
        reader = tf.train.load_checkpoint(path)
        names = (f"optimizers/{k}/iteration" for k in itertools.count())
        known = itertools.takewhile(lambda name: reader.has_tensor(f"{name}/{_VALUE}"), names)
        steps = [int(reader.get_tensor(f"{name}/{_VALUE}")) for name in known]
        return int(reader.get_tensor(f"epochs/{_VALUE}")), steps


def by_path(variables: list[keras.Variable]) -> dict[str, tf.Variable]:
    """Returns variables by their Keras paths, as checkpoints name them."""
    return {variable.path: variable.value for variable in variables}


def read_into(content: dict[str, Any], path: str, partly: bool = False) -> None:
    """Reads a checkpoint, which may hold more if it is read partly, into variables, one after another.

    `tf.train.Checkpoint.restore` would hold all of its values in memory at once, beside the variables.
    ValueError if it has other variables; OSError if release 0.4 or an earlier one wrote it.
    """
    reader = tf.train.load_checkpoint(path)
    variables = dict(_named(content))
    found = {name for name in reader.get_variable_to_shape_map() if name.endswith(_VALUE)}
    differing = variables.keys() - found if partly else variables.keys() ^ found
    if differing := sorted(differing - {f"save_counter/{_VALUE}"}):
        raise ValueError(f"it has other variables: {', '.join(differing[:3])}")
    for name, variable in variables.items():
        value = reader.get_tensor(name)
        if name.startswith("model/"):
            check_finite(name.removesuffix(f"/{_VALUE}").replace(".S", "/"), value, "it")
        variable.assign(value)


def _named(content: Any, name: str = "") -> Iterator[tuple[str, tf.Variable]]:
    """Yields variables with the names that `tf.train.Checkpoint` gives them."""
    if isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        for key, entry in entries:
            escaped = str(key).replace(".", "..").replace("/", ".S")
            yield from _named(entry, f"{name}{escaped}/")
    else:
        yield name + _VALUE, content


class DamagedCheckpointError(OSError):
    """A checkpoint that cannot be read."""

    def __init__(self, path: str, reason: str):
        super().__init__(
            f"the checkpoint {path} cannot be read; put an intact copy in its place, or remove the "
            f"folder to train again from the start. {reason}"
        )
        self.path = path
        self.reason = reason


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Within the context, an error of TensorFlow becomes a DamagedCheckpointError of `path`."""
    try:
        yield
    except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
        raise DamagedCheckpointError(path, f"{type(error).__name__}: {in_one_line(str(error))}") from None
