"""What `fit` and `evaluate` take as data, and what they refuse with a sentence."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import perturb, rewound, small_glow

from glow_tf import ConfigError, PartsTrainer
from glow_tf.data.arrays import Rows
from glow_tf.data.batches import untuned
from glow_tf.training import inputs
from glow_tf.training.batch import noise_of_step
from glow_tf.training.optimizers import FusedAdamax, ScaledSGD


def new_trainer():
    flow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1")
    trainer = PartsTrainer(flow, seed=7)
    trainer.compile("adam", rate_scaling="none")  # whose moments would move the weights without a gradient
    return trainer


make_trainer = rewound(new_trainer)


def fit(data, epochs=1, trainer=None, **kwargs):
    """Trains a trainer of the same seed; returns its history."""
    return (trainer or make_trainer()).fit(data, epochs=epochs, verbose=0, **kwargs).history


def dataset_of(images, batch=16, **others):
    """Batches of images, or of dictionaries where there is more."""
    members = {"images": images, **others} if others else images
    return untuned(tf.data.Dataset.from_tensor_slices(members).batch(batch))


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return len(self.images) // 16

    def __getitem__(self, i):
        return self.images[i * 16 : (i + 1) * 16]


def in_batches(images, batch=16):
    for start in range(0, len(images), batch):
        yield images[start : start + batch]


# What is taken


def whole_trainer(optimizer):
    """One part, so that there is less to trace."""
    flow = small_glow(perturbed=False, flow_steps=1, parts="1")
    trainer = PartsTrainer(flow, seed=7)
    trainer.compile([optimizer], clip_norm=0)
    return trainer


@pytest.mark.slow
def test_gradients_that_are_accumulated_make_the_step_of_the_larger_batch(small_images):
    noise = np.random.default_rng(0).random(small_images.shape).astype(np.float32)
    weights = []
    for batch, steps in ((32, None), (8, 4)):
        trainer = whole_trainer(FusedAdamax(1e-2, gradient_accumulation_steps=steps))
        trainer.initialize(small_images)
        fit(dataset_of(small_images, batch, noise=noise), epochs=2, trainer=trainer)
        weights.append(trainer.flow.get_weights())
        assert trainer.optimizers[0].iterations == 4
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    "option", ["gradient_accumulation_steps", "clipnorm", "global_clipnorm", "clipvalue"]
)
def test_what_keras_does_on_each_replica_alone_is_refused_on_several(option):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        trainer = new_trainer()
        with pytest.raises(
            ConfigError, match=rf"with {option} needs a single replica.* Received: Mirrored\w+ of 2 replicas"
        ):
            trainer.compile([ScaledSGD(**{option: 2})])


@pytest.mark.long
def test_batches_of_python_train_as_the_dataset_that_the_error_names(small_images):
    expected = fit(dataset_of(small_images))["bpd"]
    with pytest.raises(ConfigError, match=r"tf\.data\.Dataset\.from_generator") as raised:
        fit(in_batches(small_images))
    signature = re.search(r"output_signature=(tf.TensorSpec\(.*?'uint8'\))\)", str(raised.value))[1]
    dataset = tf.data.Dataset.from_generator(
        lambda: in_batches(small_images), output_signature=eval(signature, {"tf": tf})
    )
    assert fit(dataset)["bpd"] == expected
    assert fit({"images": small_images})["bpd"] == fit(small_images)["bpd"]


def test_a_dataset_of_unknown_length_trains_to_its_end(small_images):
    dataset = dataset_of(small_images).filter(lambda images: tf.shape(images)[0] > 0)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    trainer = make_trainer()
    fit(dataset, epochs=2, trainer=trainer)
    assert trainer.optimizers[0].iterations == 2 * 4


def test_labels_of_a_dataset_are_dropped_by_the_map_that_the_error_names(small_images):
    labelled = tf.data.Dataset.from_tensor_slices((small_images, np.arange(64))).batch(16)
    with pytest.raises(ConfigError, match=r"\.map\(lambda x, y: x\)"):
        fit(labelled)
    assert fit(labelled.map(lambda x, y: x))["bpd"] == fit(dataset_of(small_images))["bpd"]


def test_validation_split_holds_the_last_images_out(small_images):
    flow, arguments = make_trainer().flow, {"validation_split": 0.25}
    train = inputs.for_fit(flow, small_images, 16, 7, arguments)
    places = np.concatenate([batch["index"] for batch in train.take(arguments["steps_per_epoch"])])
    assert sorted(places) == list(range(48))
    batches = arguments["validation_data"]
    held_out = np.concatenate([batch["images"][batch["weight"] == 1] for batch in batches])
    np.testing.assert_array_equal(held_out, small_images[48:])


@pytest.mark.long
def test_evaluate_takes_what_fit_takes(small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    expected = trainer.evaluate(dataset_of(small_images), verbose=0, return_dict=True)
    for given in (
        small_images,
        {"images": small_images},
        dataset_of(small_images).map(lambda x: {"images": x}),
    ):
        found = trainer.evaluate(given, batch_size=16, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-6)


def test_predict_takes_what_evaluate_takes(small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    expected = np.concatenate([trainer.flow.log_prob(own, 0) for own in in_batches(small_images)])
    for given in (small_images, {"images": small_images}, dataset_of(small_images)):
        found = trainer.predict(given, batch_size=None if hasattr(given, "map") else 16, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


# Batches of every size


def test_an_empty_batch_gives_no_gradient(small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    spec = tf.TensorSpec((None, 8, 8, 1), tf.uint8)
    before = trainer.flow.get_flow_weights()
    empty = tf.data.Dataset.from_generator(lambda: iter([small_images[:0]]), output_signature=spec)
    trainer.fit(empty, epochs=1, verbose=0)
    for a, b in zip(before, trainer.flow.get_flow_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_an_uneven_last_batch_over_two_replicas_trains_as_on_one(small_images):
    """17 images: the last batch, of one, leaves the second replica without any."""
    noise = np.random.default_rng(3).uniform(size=(17, 8, 8, 1)).astype("float32") * 0.99
    results = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
        with strategy.scope():
            trainer = new_trainer()
        trainer.initialize(small_images)
        history = fit(dataset_of(small_images[:17], 8, noise=noise), trainer=trainer, epochs=2)
        evaluated = trainer.evaluate(dataset_of(small_images[:17], 8, noise=noise), verbose=0)
        results.append([history["bpd"], history["gradient_norm_1"], evaluated])
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-3)
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=1e-5)


def test_steps_without_noise_draw_it_anew(small_images):
    images = tf.constant(small_images[:4])
    steps = (((5, 0), 3), ((5, 0), 4), ((5, 1), 3))  # parts count their own steps
    a, b, c = (noise_of_step(images, seed, tf.constant(step)).numpy() for seed, step in steps)
    for one, other in ((a, b), (a, c), (b, c)):
        assert (one != other).mean() > 0.99
    assert (a[0] != a[1]).mean() > 0.99  # each example has its own


def test_an_evaluation_does_not_depend_on_the_batches(small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    expected = trainer.evaluate(small_images, verbose=0, return_dict=True)
    for batch in (7, 16):
        found = trainer.evaluate(dataset_of(small_images, batch=batch), verbose=0, return_dict=True)
        assert found["bpd"] == pytest.approx(expected["bpd"], rel=1e-6)


# What is refused

NOISE = np.zeros((64, 8, 8, 1), "float32")
IMAGES = np.zeros((64, 8, 8, 1), "uint8")

REFUSED = {
    "labels in a tuple": (
        dataset_of(IMAGES).map(lambda x: (x, x)),
        r"drops labels\. Received: a dataset of tuples",
    ),
    "images and labels as one": ((IMAGES, np.arange(64)), "drops labels. Received: tuple"),
    "labels by name": (
        dataset_of(IMAGES, labels=np.arange(64)),
        r"images and, if any, noise, index;.*'labels': 'int64",
    ),
    "images as noise": (dataset_of(IMAGES, noise=IMAGES), r"noise must be floating-point.*Received: uint8"),
    "noise beyond 1": (dataset_of(IMAGES, noise=NOISE + 1), r"noise must be in \[0, 1\).*values in \[1, 1\]"),
    "an index of numbers": (
        dataset_of(IMAGES, index=np.ones(64, "float32")),
        r"index must be integers \[N\]",
    ),
    "a condition that no model has": (
        dataset_of(IMAGES, condition=NOISE),
        "if any, noise, index;.*'condition'",
    ),
    "a dictionary without images": (
        dataset_of(IMAGES).map(lambda x: {"image": x}),
        "batches are images.*'image'",
    ),
    "images that are not batched": (
        tf.data.Dataset.from_tensor_slices(IMAGES),
        r"batches are missing: \.batch\(64\)",
    ),
    "floating-point images": (dataset_of(NOISE), r"images must be uint8 \[N, 8, 8, 1\].*float32"),
    "images of another size": (dataset_of(IMAGES[:, :4]), r"images must be uint8 \[N, 8, 8, 1\]"),
    "a dataset without an end": (dataset_of(IMAGES).repeat(), "without an end needs steps_per_epoch"),
    "an empty dataset": (dataset_of(IMAGES).take(0), "at least one batch. Received: an empty dataset"),
    "a PyDataset": (Batches(IMAGES), r"from_generator\(.*Received: Batches"),
    "a generator": (in_batches(IMAGES), r"from_generator\(.*Received: generator"),
    "a list of numbers": (IMAGES.tolist(), "data must be an array of uint8 images.*Received: list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fit_refuses_before_any_step(name):
    data, message = REFUSED[name]
    trainer = make_trainer()
    with pytest.raises(ConfigError, match=message):
        fit(data, epochs=2, trainer=trainer)
    assert trainer.optimizers[0].iterations == 0
    assert not trainer.flow.initialized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.arange(64)}, "labels are not used otherwise. Received: y"),
        ({"sample_weight": np.ones(64)}, "sample_weight is not used"),
        ({"class_weight": {0: 1.0}}, "class_weight is not used"),
        ({"validation_data": (IMAGES, IMAGES)}, "labels are not used otherwise. Received: y"),
        ({"validation_data": Batches(IMAGES)}, r"if any, noise, weight;.*Received: Batches"),
        ({"validation_split": 0.999}, "validation_split must leave images"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"shuffle": False}, "an array is shuffled anew every epoch.*Received: shuffle=False"),
    ],
)
def test_fit_refuses_arguments_that_have_no_meaning_here(arguments, message):
    with pytest.raises(ConfigError, match=message):
        fit(IMAGES, **arguments)


def test_validation_split_of_a_dataset_is_refused():
    with pytest.raises(ConfigError, match="validation_split needs an array"):
        fit(dataset_of(IMAGES), validation_split=0.5)


def test_evaluate_refuses_labels_and_indices():
    trainer = make_trainer()
    perturb(trainer.flow)
    with pytest.raises(ConfigError, match="Received: a dataset of tuples"):
        trainer.evaluate(dataset_of(IMAGES).map(lambda x: (x, x)), verbose=0)
    with pytest.raises(ConfigError, match=r"if any, noise, weight;.*'index'"):
        trainer.evaluate(dataset_of(IMAGES, index=np.arange(64)), verbose=0)
    with pytest.raises(ConfigError, match=r"weight must be floating-point numbers \[N\]"):
        trainer.evaluate(dataset_of(IMAGES, weight=np.arange(64)), verbose=0)
    with pytest.raises(ConfigError, match="labels are not used otherwise"):
        trainer.evaluate(IMAGES, np.arange(64), verbose=0)


def test_an_evaluation_without_an_end_is_refused():
    endless = dataset_of(IMAGES).repeat()
    with pytest.raises(ConfigError, match="without an end needs steps, or validation_steps in fit"):
        make_trainer().evaluate(endless, verbose=0)
    with pytest.raises(ConfigError, match="without an end needs steps, or validation_steps in fit"):
        fit(IMAGES, validation_data=endless)


def test_what_was_checked_for_training_is_checked_again_for_evaluation(small_images, rng, eager):
    noise = rng.uniform(size=small_images.shape).astype(np.float32)
    dataset = dataset_of(small_images, noise=noise, index=np.arange(len(small_images)))
    trainer = make_trainer()
    fit(dataset, trainer=trainer)
    for model in (trainer, make_trainer()):
        with pytest.raises(ConfigError, match=r"if any, noise, weight;.*'index': 'int64"):
            model.evaluate(dataset)


@pytest.mark.long
def test_what_a_model_is_given_is_y_or_in_a_dictionary(rng):
    given = rng.normal(size=(64, 3)).astype(np.float32)
    flow = small_glow(flow_steps=1, num_blocks=1, parts="1", condition_shape=(3,))
    both = {"images": IMAGES, "condition": given}
    for x, y in ((IMAGES, given), (both, None)):
        arguments = {"y": y, "validation_data": (IMAGES, given) if y is None else both}
        train = next(iter(inputs.for_fit(flow, x, 16, 7, arguments)))
        np.testing.assert_array_equal(train["condition"], given[train["index"]])
        held_out = next(iter(arguments["validation_data"]))
        np.testing.assert_array_equal(held_out["condition"][:16], given[:16])
    for wrong, received in (({"y": given}, r"y and \['condition', 'images'\]"), ({}, "'images': 'uint8")):
        with pytest.raises(ConfigError, match=f"Received: .*{received}"):
            inputs.for_fit(flow, both if wrong else IMAGES, 16, 7, wrong)
    with pytest.raises(ConfigError, match="y goes with an array"):
        inputs.for_fit(flow, dataset_of(IMAGES), 16, 7, {"y": given})


def test_an_array_of_bytes_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for own in (mapped, Rows(mapped, np.arange(0, 64, 2))):
        assert inputs._arrays(small_glow(), own, None, trains=True)["images"] is own
