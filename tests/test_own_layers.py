"""Layers and architectures of one's own: trained, resumed, saved, loaded elsewhere, exported, recut."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import own_layers
import pytest
import tensorflow as tf
from small import make_small_images, only_endpoints, perturb, small_config

import glow_tf
from glow_tf import ModelConfig, store
from glow_tf.architectures import Element, PartLayout, design_of
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.model.part_layers import bijectors_of
from glow_tf.use import exports

pytestmark = pytest.mark.long
IMAGES = make_small_images(np.random.default_rng(0))
OWN = {
    "network": {"coupling_network": own_layers.ConvNeXt(depth=2)},
    "bijector": {"bijectors": own_layers.Shear},
    "transform": {"coupling": own_layers.Triple(most=0.5)},
}
ONE = {"num_blocks": 1, "flow_steps": 1, "parts": "1"}
FORMS = {
    "glow": {"num_blocks": 1, "parts": "1,1"},
    "levels": {"architecture": "levels", "num_blocks": 1, "flow_steps": 1, "parts": "1"},
}
# The others take minutes: other tests load or export a network and levels, too.
FAST = {("bijector", "glow"), ("transform", "glow")}
CASES = [
    pytest.param(name, form, marks=[] if (name, form) in FAST else pytest.mark.slow)
    for form in FORMS
    for name in OWN
]


@own_layers.register
class Halves(own_layers.Triple):
    def parameters(self, output):
        return (output - 0.5,)


def test_a_transform_that_is_no_identity_at_zeros_is_refused_where_it_could_not_be_inverted():
    glow_tf.Flow(small_config(**ONE, image_shape=(8, 8, 3)), coupling=Halves())
    with pytest.raises(glow_tf.ConfigError, match=r"must be the identity .* Received: Halves, which makes"):
        glow_tf.Flow(small_config(**ONE, image_shape=(1, 8, 1)), coupling=Halves())


def json_of(registered_name, module="mine", **config):
    """Returns Keras's JSON of a layer as a file may hold it."""
    names = {"class_name": "Mine", "registered_name": registered_name, "module": module}
    return json.dumps({**names, "config": config})


@own_layers.register
class NoDefault(own_layers.ConvNeXt):
    def __init__(self, depth, **kwargs):
        super().__init__(depth, **kwargs)


def model_of(name, form, **changes):
    return glow_tf.Flow(small_config(**FORMS[form] | changes), **OWN[name], name="glow")


def trained(flow):
    trainer = glow_tf.PartsTrainer(flow)
    settings = {"schedule": "simultaneous", "part_epochs": 2, "finetune_epochs": 0}
    trainer.compile(glow_tf.TrainConfig(**settings))
    trainer.fit(IMAGES[:32], batch_size=16, verbose=0)
    return trainer


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_layer_of_ones_own_trains_inverts_and_is_kept_in_every_file(name, form, tmp_path, eager):
    flow = model_of(name, form)
    before = [part.get_weights() for part in flow.parts]
    trainer = trained(flow)
    for part, weights in zip(flow.parts, before, strict=True):
        moved = [np.any(a != b) for a, b in zip(part.get_weights(), weights, strict=True)]
        assert np.mean(moved) > 0.5
    np.testing.assert_array_equal(flow.decode(flow.encode(IMAGES[:8])), IMAGES[:8])
    assert flow.sample(2, seed=0).shape == (2, 8, 8, 1)
    expected = flow.log_prob(IMAGES[:8], 0)

    trainer.save(tmp_path / "trainer.keras")
    flow.save(tmp_path / "model.keras")
    glow_tf.save(flow, tmp_path / "preset")
    with only_endpoints("log_prob"):
        exports.export(flow, tmp_path / "export")
    files = [glow_tf.load(tmp_path / file) for file in ("trainer.keras", "model.keras", "preset")]
    for found in (*files, flow.recut(**({"parts": "1"} if form == "glow" else {}))):
        np.testing.assert_allclose(found.log_prob(IMAGES[:8], 0), expected, rtol=1e-5)
    exported = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(exported.log_prob(IMAGES[:8], 0), expected, rtol=1e-5)


def test_a_layer_is_loaded_once_it_is_registered_and_named_otherwise(tmp_path, monkeypatch, eager):
    flow = model_of("network", "glow", **ONE)
    flow.initialize(IMAGES)
    flow.save(tmp_path / "model.keras")
    glow_tf.save(flow, tmp_path / "preset")
    refusal = r"import its module first.*own>ConvNeXt"
    for file in ("model.keras", "preset"):
        with monkeypatch.context() as without:  # as in a process that did not import the module
            without.delitem(keras.saving.get_custom_objects(), "own>ConvNeXt")
            with pytest.raises(ValueError, match=refusal):
                glow_tf.load(tmp_path / file)
        found = glow_tf.load(tmp_path / file)
        np.testing.assert_allclose(found.log_prob(IMAGES[:1], 0), flow.log_prob(IMAGES[:1], 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"coupling_network": own_layers.Dropping}, r"trainable weights alone.*Received: Dropping"),
        ({"coupling_network": "own>ConvNeXt"}, r"must be one of.*Received: coupling_network='own>ConvNeXt'"),
        ({"coupling_network": json_of("own>Nothing")}, r"not registered.*Received.*'own>Nothing'"),
        ({"coupling_network": json_of("own>ConvNeXt", deep=3)}, r"could not be made.*Received"),
        ({"coupling_network": json_of(None, module="os")}, r"not registered.*Received.*'Mine'"),
        ({"coupling_network": "{broken}"}, r"could not be made.*Received"),
        ({"coupling_network": NoDefault}, r"get_config describes.*'depth'.*Received"),
        ({"coupling": own_layers.Shear}, r"coupling must be a Transform.*Received"),
        ({"bijectors": own_layers.ConvNeXt}, r"bijectors must be a Bijector.*Received"),
        ({"coupling": "linear"}, r"coupling must be one of.*module:Class.*Received: coupling='linear'"),
    ],
    ids=str,
)
def test_what_is_no_layer_for_its_place_is_refused(given, match):
    with pytest.raises(ConfigError, match=match):
        glow_tf.Flow(small_config(), **given)


def test_an_architecture_of_ones_own_is_one_class(tmp_path, eager):
    config = small_config(architecture="own_layers:OneScale", parts="1", flow_steps=3, num_blocks=1)
    flow = glow_tf.Flow(config, name="glow")
    assert [layout.flow_steps for layout in design_of(config).layouts] == [1, 2]
    trained(flow)
    np.testing.assert_array_equal(flow.decode(flow.encode(IMAGES[:8])), IMAGES[:8])
    glow_tf.save(flow, tmp_path / "preset")
    found = glow_tf.load(tmp_path / "preset")
    np.testing.assert_allclose(found.log_prob(IMAGES[:8], 0), flow.log_prob(IMAGES[:8], 0), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"parts is for architecture=glow.*Received: parts='1,2'"):
        design_of(dataclasses.replace(config, parts="1,2"))


def test_a_subclass_of_levels_is_an_architecture(eager):
    config = ModelConfig((8, 8, 1), architecture="own_layers:Even", num_blocks=1, flow_steps=3, width=4)
    assert design_of(config).cuts == (3, 3)
    flow = trained(glow_tf.Flow(config, name="glow")).flow
    assert flow.resized((12, 10, 1)).design.cuts == (3, 3, 3)
    np.testing.assert_array_equal(flow.decode(flow.encode(IMAGES[:8])), IMAGES[:8])


def test_an_element_of_an_unknown_kind_must_say_what_makes_it():
    design = design_of(small_config(parts="1"))
    (layout,) = design.layouts
    with pytest.raises(ConfigError, match=r"needs `make`.*Received: kind='shear'"):
        bijectors_of(design, PartLayout((Element("shear", 1, 0, 4, 4, 4, 0),), layout.output_shape), None)


@pytest.mark.parametrize("setting", ["architecture", "bijectors", "coupling", "coupling_network"])
def test_a_file_does_not_make_python_import_anything(setting, tmp_path):
    settings = {"image_shape": [8, 8, 1], setting: "this_module_is_not_there:Mine"}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"import its module first.*Received"):
        store.settings_of(tmp_path)


def test_a_run_with_layers_named_by_flags_goes_on_and_loads(tmp_path, monkeypatch, eager):
    monkeypatch.chdir(tmp_path)
    flags = ["--flagfile=quickstart", "--coupling_network=own_layers:NARROW", "--workdir=run"]
    flags += [
        "--num_blocks=1",
        "--flow_steps=2",
        "--train_examples=64",
        "--test_examples=16",
    ]
    flags += ["--noexport", "--notensorboard", "--sample_every=0", "--schedule=simultaneous", "--parts=1,1"]
    assert cli.main(["train", *flags, "--part_epochs=1", "--finetune_epochs=0"]) == 0
    assert cli.main(["train", *flags, "--part_epochs=1", "--finetune_epochs=0"]) == 0  # finished
    rows = pathlib.Path("run/history.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "--coupling_network=own_layers:NARROW" in pathlib.Path("run/flags.cfg").read_text()
    flow = glow_tf.load("run")
    assert json.loads(flow.config.coupling_network)["config"]["width"] == 4
    more = [*flags, "--workdir=more", "--init_from=run", "--part_epochs=1", "--finetune_epochs=0"]
    assert cli.main(["train", *more]) == 0


def test_a_network_of_ones_own_inverts_exactly_in_bfloat16(eager):
    flow = model_of("network", "glow", num_blocks=1, flow_steps=2, parts="2", precision="mixed_bfloat16")
    flow.initialize(IMAGES)
    perturb(flow)
    own = flow.parts[0].bijectors[1].get_config()["bijector"]
    assert "bfloat16" in str(own)
    v = flow.dequantized(IMAGES[:8])
    eps = flow.encode(IMAGES[:8])
    again = flow.encode(flow.decode(eps))
    np.testing.assert_array_equal(flow.decode(eps), IMAGES[:8])
    np.testing.assert_allclose(again, eps, atol=1e-4)
    assert np.isfinite(flow.dequantized_log_prob(v)).all()


@pytest.mark.parametrize(
    ("precision", "dtype", "computed"),
    [("mixed_bfloat16", None, tf.bfloat16), ("float32", "float64", tf.float64)],
)
def test_the_dtype_of_a_model_reaches_the_layers_within_a_network(precision, dtype, computed):
    config = small_config(**ONE, precision=precision)
    flow = glow_tf.Flow(config, coupling_network=own_layers.ConvNeXt(), dtype=dtype)
    kept = dtype or "float32"
    assert {weight.dtype for weight in flow.trainable_weights} == {kept}
    spec = tf.TensorSpec((2, *flow.image_shape), kept)
    traced = tf.function(flow.dequantized_log_prob, autograph=False).get_concrete_function(spec)
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for own in graph.library.function for node in own.node_def)]
    own = [node for node in nodes if node.op in ("DepthwiseConv2dNative", "Einsum")]  # of no other network
    assert {tf.as_dtype(node.attr["T"].type) for node in own} == {computed}
    assert flow.log_prob(IMAGES[:2]).dtype == kept
