"""A SavedModel that holds other operations than an export is not loaded."""

import numpy as np
import pytest
import tensorflow as tf
from small import only_endpoints, small_glow
from tensorflow.core.protobuf import saved_model_pb2

from glow_tf import export
from glow_tf.core.errors import ConfigError
from glow_tf.use import open_model
from glow_tf.use.exports.operations import check_operations


@pytest.fixture
def exported(exported_once):
    return exported_once[1]


class Program(tf.Module):
    """What a SavedModel from elsewhere may do."""

    def __init__(self, body):
        super().__init__()
        self.call = tf.function(body, [tf.TensorSpec([], tf.string)])


def writes(path):
    tf.io.write_file(path, "x")
    return path


def saves(path):
    tf.raw_ops.SaveV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros([])])
    return path


def prints(path):
    tf.print(path)
    return path


GIVEN = {"averaged": (8, 8, 1), "repeated": (2, 2, 1), "resized": (6, 6, 1), "one": (3,)}
PROGRAMS = {"ReadFile": tf.io.read_file, "WriteFile": writes, "SaveV2": saves, "PrintV2": prints}


def test_what_export_writes_is_allowed(exported):
    check_operations(exported)
    model, images = open_model(exported), np.zeros((2, 8, 8, 1), np.uint8)
    assert model.image_shape == (8, 8, 1)
    with pytest.raises(ConfigError, match=r"eps must be float32 of shape \(None, 64\)"):
        model.decode(images)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"permutation": "plain", "scale": "sigmoid", "condition_shape": GIVEN, "equalize": 0.5},
        pytest.param({"architecture": "levels"}, marks=pytest.mark.slow),  # as in test_levels.py
        pytest.param({"coupling": "additive"}, marks=pytest.mark.slow),
    ],
)
def test_variants_are_allowed(changes, tmp_path):
    with only_endpoints("sample", "encode", "bits_per_dim"):
        export(small_glow(flow_steps=1, num_blocks=1, parts="1", **changes), tmp_path / "export")
    check_operations(tmp_path / "export")


@pytest.mark.parametrize("operation", PROGRAMS)
def test_other_programs_are_refused_by_name_before_they_are_loaded(operation, tmp_path, monkeypatch):
    folder = tmp_path / "program"
    tf.saved_model.save(Program(PROGRAMS[operation]), str(folder))
    monkeypatch.setattr(tf.saved_model, "load", None)
    with pytest.raises(ConfigError, match=rf"Received: '\S+' with {operation} within .*--allow_unknown_ops"):
        open_model(folder)


def test_a_program_that_is_allowed_is_loaded_and_may_still_be_no_model(tmp_path):
    tf.saved_model.save(Program(tf.io.read_file), str(tmp_path / "program"))
    with pytest.raises(ConfigError, match="must have the endpoints sample_checked, "):
        open_model(tmp_path / "program", allow_unknown_ops=True)


def test_another_file_that_tensorflow_would_read_is_refused(exported):
    other = exported / "saved_model.cpb"
    other.touch()
    with pytest.raises(
        ConfigError, match=r"must be one file, saved_model\.pb.*Received: \S+saved_model\.cpb"
    ):
        check_operations(exported)
    other.unlink()


def test_a_damaged_file_is_named(exported, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes()[:-7])
    with pytest.raises(OSError, match=r"saved_model\.pb is damaged"):
        open_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(OSError, match=r"saved_model\.pb is damaged: it holds nothing"):
        open_model(tmp_path)


def test_a_program_of_tensorflow_1_is_refused_because_loading_runs_it(exported, tmp_path):
    for change in (lambda m: m.meta_graphs[0].ClearField("object_graph_def"), lambda m: m.meta_graphs.add()):
        model = saved_model_pb2.SavedModel()
        model.ParseFromString((exported / "saved_model.pb").read_bytes())
        change(model)
        (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
        with pytest.raises(ConfigError, match=r"format of TensorFlow 2.* Received: .*--allow_unknown_ops"):
            check_operations(tmp_path)


def test_the_saver_is_called_by_nothing_but_the_saver(exported, tmp_path):
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((exported / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0]
    functions = graph.graph_def.library.function
    (save,) = [f for f in functions if f.signature.name.startswith("__inference__traced_save")]
    other = next(f for f in functions if "traced" not in f.signature.name)
    call = other.node_def.add(name="hidden", op="StatefulPartitionedCall")
    call.attr["f"].func.name = save.signature.name
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="a call of the saver within"):
        check_operations(tmp_path)
    other.node_def.pop()
    graph.object_graph_def.concrete_functions[save.signature.name].SetInParent()
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"the saver's __inference__traced_save_.* as an endpoint"):
        check_operations(tmp_path)
