"""What `fit` and `evaluate` take as data, and what they refuse with a sentence."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import perturb, rewound, small_glow

from glow_tf import ConfigError, PartsTrainer, phases
from glow_tf.data.batches import untuned
from glow_tf.training.feed import datasets, inputs
from glow_tf.training.feed.batch import first_examples, named, noise_of_step
from glow_tf.training.feed.datasets import as_dataset
from glow_tf.training.optim.optimizers import FusedAdamax


def new_trainer():
    glow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1")
    trainer = PartsTrainer(glow, phases("end_to_end", 1, 2, 0), seed=7)
    trainer.compile("adam", rate_scaling="none")  # whose moments would move the weights without a gradient
    return trainer


make_trainer = rewound(new_trainer)


def fit(data, epochs=1, trainer=None, **kwargs):
    """Trains a trainer of the same seed; returns its history."""
    return (trainer or make_trainer()).fit(data, epochs=epochs, verbose=0, **kwargs).history


def dataset_of(*members, batch=16):
    dataset = tf.data.Dataset.from_tensor_slices(members if members[1:] else members[0]).batch(batch)
    return untuned(dataset)


class Batches(keras.utils.PyDataset):
    def __init__(self, images, batch=16):
        super().__init__()
        self.images, self.batch, self.ended = images, batch, 0

    def __len__(self):
        return -(-len(self.images) // self.batch)

    def __getitem__(self, i):
        return self.images[i * self.batch : (i + 1) * self.batch]

    def on_epoch_end(self):
        self.ended += 1


class Endless(Batches):
    @property
    def num_batches(self):
        return None


def in_batches(images, batch=16):
    for start in range(0, len(images), batch):
        yield images[start : start + batch]


# What is taken


def whole_trainer(optimizer):
    """One part, so that there is less to trace."""
    glow = small_glow(perturbed=False, flow_steps=1, parts="1")
    trainer = PartsTrainer(glow, phases("end_to_end", 1, 2, 0), seed=7)
    trainer.compile([optimizer], clip_norm=0)
    return trainer


@pytest.mark.slow
def test_gradients_that_are_accumulated_make_the_step_of_the_larger_batch(small_images):
    noise = np.random.default_rng(0).random(small_images.shape).astype(np.float32)
    weights = []
    for batch, steps in ((32, None), (8, 4)):
        trainer = whole_trainer(FusedAdamax(1e-2, gradient_accumulation_steps=steps))
        trainer.initialize(small_images)
        fit(dataset_of(small_images, noise, batch=batch), epochs=2, trainer=trainer)
        weights.append(trainer.glow.get_weights())
        assert trainer.optimizers[0].iterations == 4
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_a_step_that_is_skipped_amid_accumulated_ones_counts_as_zero(small_images):
    noise = np.full(small_images.shape, 0.5, np.float32)
    broken, weights = noise.copy(), []
    broken[24:32] = 1e30  # the last batch of the first four, whose step makes the update
    for given, count in ((broken, 32), (noise, 24)):
        trainer = whole_trainer(keras.optimizers.SGD(1e-2, gradient_accumulation_steps=count // 8))
        trainer.initialize(small_images[:24])
        before = trainer.glow.get_weights()
        fit(dataset_of(small_images[:count], given[:count], batch=8), trainer=trainer)
        pairs = zip(trainer.glow.get_weights(), before, strict=True)
        weights.append([after - start for after, start in pairs])
    for skipped, without in zip(*weights, strict=True):
        np.testing.assert_allclose(skipped, without * 3 / 4, atol=1e-5)


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
            trainer.compile([keras.optimizers.SGD(**{option: 2})])


@pytest.mark.long
def test_tuples_of_images_alone_are_evaluated_as_images_alone(small_images):
    trainer = make_trainer()
    alone, tuples = (tf.data.Dataset.from_tensor_slices(x).batch(16) for x in (small_images, (small_images,)))
    assert trainer.evaluate(tuples, verbose=0) == trainer.evaluate(alone, verbose=0)


@pytest.mark.long
def test_every_way_of_giving_the_same_batches_trains_the_same(small_images):
    expected = fit(dataset_of(small_images))["bpd"]
    assert fit(Batches(small_images))["bpd"] == expected
    assert fit(in_batches(small_images))["bpd"] == expected
    assert fit(iter(dataset_of(small_images)))["bpd"] == expected
    assert fit(dataset_of(small_images).as_numpy_iterator())["bpd"] == expected


def test_a_dataset_of_unknown_length_trains_to_its_end(small_images):
    dataset = dataset_of(small_images).filter(lambda images: tf.shape(images)[0] > 0)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    trainer = make_trainer()
    fit(dataset, epochs=2, trainer=trainer)
    assert trainer.optimizers[0].iterations == 2 * 4


@pytest.mark.long
def test_images_of_unknown_size_are_taken_and_checked_as_they_come(small_images):
    spec = tf.TensorSpec((None, None, None, 1), tf.uint8)
    loose = tf.data.Dataset.from_generator(lambda: in_batches(small_images), output_signature=spec)
    assert fit(loose)["bpd"] == fit(dataset_of(small_images))["bpd"]
    wrong = tf.data.Dataset.from_generator(lambda: in_batches(small_images[:, :4]), output_signature=spec)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[4,8,1\]|is not compatible|mismatch"):
        fit(wrong)


def test_labels_of_a_dataset_are_dropped_by_the_map_that_the_error_names(small_images):
    labelled = dataset_of(small_images, np.arange(64))
    with pytest.raises(ConfigError, match=r"\.map\(lambda x, y: x\)"):
        fit(labelled)
    assert fit(labelled.map(lambda x, y: x))["bpd"] == fit(dataset_of(small_images))["bpd"]


def test_a_py_dataset_is_told_of_every_epoch_that_is_read(small_images):
    data = Batches(small_images)
    fit(data, epochs=2)
    assert data.ended == 1 + 2  # ActNorms are initialised from one more


def test_an_iterator_trains_for_the_steps_of_several_epochs(small_images):
    trainer = make_trainer()
    batches = (small_images[:16] for _ in range(6))
    fit(batches, epochs=2, trainer=trainer, steps_per_epoch=3)
    assert trainer.optimizers[0].iterations == 6


def test_validation_split_holds_the_last_images_out(small_images):
    glow, arguments = make_trainer().glow, {"validation_split": 0.25}
    train = inputs.for_fit(glow, small_images, 16, 7, arguments)
    places = np.concatenate([batch["index"] for batch in train.take(arguments["steps_per_epoch"])])
    assert sorted(places) == list(range(48))
    batches = arguments["validation_data"]
    held_out = np.concatenate([batch["images"][batch["weight"] == 1] for batch in batches])
    np.testing.assert_array_equal(held_out, small_images[48:])


@pytest.mark.long
@pytest.mark.parametrize("as_data", [dataset_of, Batches, in_batches])
def test_evaluate_takes_what_fit_takes(as_data, small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    expected = trainer.evaluate(dataset_of(small_images), verbose=0, return_dict=True)
    assert trainer.evaluate(as_data(small_images), verbose=0, return_dict=True) == expected


# Batches of every size


@pytest.mark.slow  # the next one has its gradient
def test_an_empty_batch_changes_nothing(small_images):
    noise = np.random.default_rng(3).uniform(size=small_images.shape).astype("float32") * 0.99
    pieces = [slice(0, 16), slice(0, 0), slice(16, 32)]
    spec = tuple(tf.TensorSpec((None, 8, 8, 1), dtype) for dtype in (tf.uint8, tf.float32))
    with_empty = tf.data.Dataset.from_generator(
        lambda: ((small_images[piece], noise[piece]) for piece in pieces), output_signature=spec
    )
    results = []
    for dataset in (with_empty, dataset_of(small_images[:32], noise[:32])):
        trainer = make_trainer()
        history = fit(dataset, trainer=trainer, epochs=2)
        evaluated = trainer.evaluate(dataset, verbose=0, return_dict=True)
        results.append([*history["bpd"], evaluated["bpd"], evaluated["bpd_se"]])
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_an_empty_batch_gives_no_gradient(small_images):
    trainer = make_trainer()
    trainer.initialize(small_images)
    spec = tf.TensorSpec((None, 8, 8, 1), tf.uint8)
    before = trainer.glow.get_flow_weights()
    empty = tf.data.Dataset.from_generator(lambda: iter([small_images[:0]]), output_signature=spec)
    trainer.fit(empty, epochs=1, verbose=0)
    for a, b in zip(before, trainer.glow.get_flow_weights(), strict=True):
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
        history = fit(dataset_of(small_images[:17], noise, batch=8), trainer=trainer, epochs=2)
        evaluated = trainer.evaluate(dataset_of(small_images[:17], noise, batch=8), verbose=0)
        results.append([history["bpd"], history["gradient_norm_1"], evaluated])
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-3)
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=1e-5)


def test_replicas_draw_their_slices_of_the_noise_of_the_whole_batch(small_images):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    whole = noise_of_step(tf.constant(small_images[:8]), (5, 0), tf.constant(3))

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def noises(first):
        def own():
            return noise_of_step(tf.constant(small_images[:4]), (5, 0), tf.constant(3))

        def uneven():
            place = tf.distribute.get_replica_context().replica_id_in_sync_group
            images = tf.constant(small_images)[: tf.where(tf.equal(place, 0), first, 8 - first)]
            assert images.shape[0] is None
            return noise_of_step(images, (5, 0), tf.constant(3))

        return strategy.run(own), strategy.run(uneven)

    for found in noises(tf.constant(5)):
        np.testing.assert_array_equal(tf.concat(strategy.experimental_local_results(found), 0), whole)


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


def test_a_model_in_float64_trains_on_batches_of_any_size(small_images, eager):
    trainer = PartsTrainer(small_glow("float64", flow_steps=1, parts="1"), phases("end_to_end", 1, 1))
    trainer.compile("sgd", run_eagerly=True)
    assert np.isfinite(trainer.fit(dataset_of(small_images[:20]), verbose=0).history["bpd"]).all()


def test_keras_arguments_mean_what_they_mean_in_keras(small_images):
    glow = make_trainer().glow
    arguments = {"steps_per_epoch": None, "validation_split": 0.5, "validation_data": small_images[:5]}
    inputs.for_fit(glow, small_images, 16, 7, arguments | {"validation_batch_size": 3})
    arguments |= {"validation_batch_size": 3}
    inputs.for_fit(glow, small_images, 16, 7, arguments)
    assert arguments["steps_per_epoch"] == 4
    assert arguments["validation_data"].element_spec["images"].shape[0] == 3
    assert sum(float(tf.reduce_sum(batch["weight"])) for batch in arguments["validation_data"]) == 5


# What is refused

NOISE = np.zeros((64, 8, 8, 1), "float32")
IMAGES = np.zeros((64, 8, 8, 1), "uint8")

REFUSED = {
    "images as noise": (dataset_of(IMAGES, IMAGES), r"labels are not used.*second member\) of uint8"),
    "labels": (dataset_of(IMAGES, np.arange(64)), r"labels are not used.*second member\) of int64"),
    "images and labels as one": ((IMAGES, np.arange(64)), r"labels are not used.*second member\) of int64"),
    "floating-point labels": (dataset_of(IMAGES, np.zeros(64, "float32")), r"labels.*float32, shape"),
    "noise beyond 1": (dataset_of(IMAGES, NOISE + 1), r"noise in \[0, 1\).*values in \[1, 1\]"),
    "noise that is not finite": (dataset_of(IMAGES, NOISE * np.nan), r"noise in \[0, 1\).*\[nan, nan\]"),
    "weights for training": (
        dataset_of(IMAGES, NOISE, np.ones(64, "float32")),
        r"index must be integers \[N\]",
    ),
    "four members": (dataset_of(IMAGES, NOISE, np.arange(64), NOISE), "expected images uint8"),
    "a dictionary": (dataset_of({"image": IMAGES}), "expected images uint8.*'image'"),
    "images that are not batched": (
        tf.data.Dataset.from_tensor_slices(IMAGES),
        r"batches are missing: \.batch\(64\)",
    ),
    "floating-point images": (dataset_of(NOISE), r"must begin with uint8 images \[N, 8, 8, 1\].*float32"),
    "images of another size": (dataset_of(IMAGES[:, :4]), r"must begin with uint8 images \[N, 8, 8, 1\]"),
    "a dataset without an end": (dataset_of(IMAGES).repeat(), "without an end needs steps_per_epoch"),
    "a PyDataset without an end": (Endless(IMAGES), "without an end needs steps_per_epoch"),
    "an empty dataset": (dataset_of(IMAGES).take(0), "at least one batch. Received: an empty dataset"),
    "an iterator for two epochs": (None, "an iterator ends with its first epoch"),
    "an empty iterator": (iter([]), "at least one batch"),
    "a number": (3, "uint8 images .*Received: int"),
    "noise of an array": ((IMAGES, NOISE), r"an array has noise that is drawn.*\['noise'\]"),
    "floating-point arrays": (NOISE, "images must be uint8"),
    "a list of numbers": (IMAGES.tolist(), "images must be uint8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fit_refuses_before_any_step(name):
    data, message = REFUSED[name]
    trainer = make_trainer()
    with pytest.raises(ConfigError, match=message):
        fit(in_batches(IMAGES) if data is None else data, epochs=2, trainer=trainer)
    assert trainer.optimizers[0].iterations == 0
    assert not trainer.glow.initialized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.arange(64)}, "y is not used"),
        ({"sample_weight": np.ones(64)}, "sample_weight is not used"),
        ({"class_weight": {0: 1.0}}, "class_weight is not used"),
        ({"validation_data": (IMAGES, IMAGES)}, r"labels are not used.*second member\) of uint8"),
        ({"validation_split": 0.999}, "validation_split must leave images"),
        ({"batch_size": 8.5}, r"batch_size must be a positive integer. Received: batch_size=8\.5"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"validation_data": IMAGES[:0]}, r"images must be uint8 .* Received: uint8 of shape \(0, 8"),
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
    perturb(trainer.glow)
    with pytest.raises(ConfigError, match="labels are not used"):
        trainer.evaluate(dataset_of(IMAGES, np.arange(64)), verbose=0)
    with pytest.raises(ConfigError, match=r"weight must be floating-point numbers \[N\]"):
        trainer.evaluate(dataset_of(IMAGES, NOISE, np.arange(64)), verbose=0)
    with pytest.raises(ConfigError, match="y is not used"):
        trainer.evaluate(IMAGES, np.arange(64), verbose=0)


def test_an_evaluation_without_an_end_is_refused():
    endless = dataset_of(IMAGES).repeat()
    with pytest.raises(ConfigError, match="without an end needs steps, or validation_steps in fit"):
        make_trainer().evaluate(endless, verbose=0)
    with pytest.raises(ConfigError, match="without an end needs steps, or validation_steps in fit"):
        fit(IMAGES, validation_data=endless)


def test_the_first_images_of_replicas_are_those_of_the_dataset():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        dataset = strategy.experimental_distribute_dataset(dataset_of(IMAGES, NOISE, batch=8))
        first = first_examples(dataset, 12, small_glow().config)
    assert first.keys() == {"images", "noise"}
    np.testing.assert_array_equal(first["images"], IMAGES[:12])
    np.testing.assert_array_equal(first["noise"], NOISE[:12])


def test_a_dataset_is_checked_once():
    trainer = make_trainer()
    checked = as_dataset(trainer.glow, dataset_of(IMAGES, NOISE), trains=True)
    assert as_dataset(trainer.glow, checked, trains=True) is checked


def test_what_was_checked_for_training_is_checked_again_for_evaluation(small_images, rng, eager):
    """Otherwise the places of the images would be their weights."""
    noise = rng.uniform(size=small_images.shape).astype(np.float32)
    dataset = dataset_of(small_images, noise, np.arange(len(small_images)))
    trainer = make_trainer()
    fit(dataset, trainer=trainer)
    for model in (trainer, make_trainer()):
        with pytest.raises(ConfigError, match=r"weight must be floating.*Received: int64"):
            model.evaluate(dataset)


def test_a_dataset_of_one_model_is_checked_again_for_another(small_images):
    dataset = dataset_of(small_images)
    as_dataset(small_glow(), dataset, trains=True)
    with pytest.raises(ConfigError, match=r"must begin with uint8 images \[N, 8, 8, 3\].*Received: "):
        as_dataset(small_glow(image_shape=(8, 8, 3)), dataset, trains=True)


@pytest.mark.long
def test_batches_by_name_train_as_tuples_do(small_images, rng, eager):
    noise = rng.uniform(size=small_images.shape).astype(np.float32)
    named, tuples = dataset_of({"noise": noise, "images": small_images}), dataset_of(small_images, noise)
    assert fit(named)["bpd"] == fit(tuples)["bpd"]
    assert fit({"images": small_images})["bpd"] == fit(small_images)["bpd"]
    trainer = make_trainer()
    trainer.initialize(small_images)
    assert trainer.evaluate(named, verbose=0) == trainer.evaluate(tuples, verbose=0)
    one, other = {"images": small_images, "noise": noise}, (small_images, noise)
    assert trainer.test_on_batch(one) == trainer.test_on_batch(other)
    for wrong in ({"images": small_images, "labels": np.arange(64)}, {"noise": noise}):
        with pytest.raises(ConfigError, match=r"expected images uint8.*Received: \{'"):
            fit(dataset_of(wrong))


@pytest.mark.long
def test_noise_of_an_evaluation_depends_on_no_batch_size_where_something_is_given(rng):
    given = rng.normal(size=(64, 3)).astype(np.float32)
    glow = small_glow(flow_steps=1, num_blocks=1, parts="1", condition_shape=(3,))
    trainer = PartsTrainer(glow, seed=7)
    trainer.compile()
    expected = trainer.evaluate(IMAGES, given, verbose=0, return_dict=True)["bpd"]
    for batch in (64, 24):
        found = trainer.evaluate(dataset_of(IMAGES, given, batch=batch), verbose=0, return_dict=True)["bpd"]
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_evaluation_keeps_no_batch_of_a_generator():
    batches = in_batches(IMAGES)
    seen = inputs.for_evaluation(small_glow(), batches, None, 0, {})
    assert len([*seen]) == 4
    (kept,) = [own for own in datasets._one_shots.values() if own._batches is batches]
    assert not kept._keeps


@pytest.mark.parametrize("members", [2, 1])
def test_what_follows_a_dictionary_is_what_it_lacks(members):
    config = small_glow().config
    given = dataclasses.replace(config, condition_shape=(2,))
    y = np.eye(2)[np.arange(64) % 2]
    batch = named(({"images": IMAGES}, y)[:members], given)
    assert batch.keys() == {"images", "condition"} if members == 2 else {"images"}
    assert named(((IMAGES, NOISE), y), given).keys() == {"images", "noise", "condition"}
    with pytest.raises(ConfigError, match=r"may be followed by .* Received: \['images'\] and 1 more"):
        named(({"images": IMAGES}, y), config)
    with pytest.raises(ConfigError, match=r"Received: \['condition', 'images'\] and 1 more"):
        named(({"images": IMAGES, "condition": y}, y), given)


def test_an_array_of_bytes_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert inputs._arrays(small_glow(), mapped, None, trains=True)["images"] is mapped
