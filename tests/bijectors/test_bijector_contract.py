"""What every bijector promises, tested on every bijector."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from own_layers import Shear, Triple
from small import make_coupling, make_flow_step, perturb, small_config

from glow_tf import config
from glow_tf.architectures.own_layers import written
from glow_tf.bijectors import (
    ActNorm,
    Bijector,
    Chain,
    Coupling,
    Dequantize,
    Equalize,
    FlowSplit,
    GaussianBase,
    Haar,
    InvertibleConv,
    LastLine,
    OwnFlowStep,
    Repeatable,
    Split,
    Squeeze,
    Stack,
    Standardize,
    Transform,
    check,
)
from glow_tf.bijectors.bijector import PartOutput, no_log_det, per_example, read_by
from glow_tf.bijectors.checking import check_map
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.bijectors.mode import Context, Mode
from glow_tf.model.flow import Flow
from glow_tf.model.parts import Part, get_weights_by_step, set_weights_by_step
from glow_tf.use.score.rule import places_in_part

SHAPE = (4, 4, 4)
F64 = {"dtype": "float64"}


def make_glow(**changes):
    """Returns a factory of a whole small Glow, which keeps the contract too."""
    return lambda: Flow(small_config(image_shape=SHAPE, width=6, **changes), dtype="float64")


@keras.saving.register_keras_serializable(package="tests")
class Negate(Bijector):
    """As little as a bijector can be: its two methods."""

    def forward_and_log_det(self, x):
        return -x, per_example(tf.zeros([], x.dtype), x)

    def inverse_and_log_det(self, y):
        return -y, per_example(tf.zeros([], y.dtype), y)


@keras.saving.register_keras_serializable(package="tests")
class LastChannelOut(Bijector):
    """Factors out one channel, as no bijector of the package does."""

    def forward_and_log_det(self, x):
        return x, no_log_det(x)

    def inverse_and_log_det(self, y):
        return y, no_log_det(y)

    def forward_in_part(self, so_far):
        h, eps = so_far.h[..., :-1], so_far.h[..., -1:]
        log_prob = so_far.latents_log_prob + standard_normal_log_prob(eps)
        return so_far._replace(h=h, latents=(*so_far.latents, eps), latents_log_prob=log_prob)

    def inverse_in_part(self, h, latents, bound):
        return bound(tf.concat([h, latents[-1]], axis=-1)), latents[:-1]

    def initialize_in_part(self, x):
        return x[..., :-1]

    def shapes(self, input_shape):
        *others, channels = input_shape
        return (*others, channels - 1), ((*others, 1),)


@keras.saving.register_keras_serializable(package="tests")
class TwoConvolutions(keras.layers.Layer):
    """As little as a coupling network of one's own can be."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.first = keras.layers.Conv2D(width, 3, padding="same", activation="tanh", dtype=policy)
        self.second = keras.layers.Conv2D(3, 1, activation="tanh", dtype=policy)

    def call(self, x):
        return self.second(self.first(x))


def make_flow_split(given=0, **kwargs):
    """Returns a split that keeps one channel and has two flow steps for the others."""
    coupling = config.CouplingConfig(6, condition_channels=5)
    return FlowSplit(1, coupling, 2, given_channels=given, **F64, **kwargs)


@keras.saving.register_keras_serializable(package="tests")
class SinhArcsinh(Transform):
    """y = sinh(arcsinh(b) + t): a transform that is not affine, and reads one output per channel."""

    outputs_per_channel = 1

    def parameters(self, output):
        return (output,)

    def forward(self, b, shift):
        y = tf.sinh(tf.asinh(b) + shift)
        return y, tf.reduce_sum(tf.math.log1p(y**2) - tf.math.log1p(b**2), axis=[1, 2, 3]) / 2

    def inverse(self, y, shift):
        b = tf.sinh(tf.asinh(y) - shift)
        return b, tf.reduce_sum(tf.math.log1p(b**2) - tf.math.log1p(y**2), axis=[1, 2, 3]) / 2


BIJECTORS = {
    "two_methods_alone": lambda: Negate(**F64),
    "last_channel_out": lambda: LastChannelOut(**F64),
    "dequantize_8": lambda: Dequantize(8, **F64),
    "dequantize_16": lambda: Dequantize(16, **F64),
    "equalize_3": lambda: Equalize(3, 0.9, **F64),
    "standardize": lambda: Standardize(**F64),
    "squeeze": lambda: Squeeze(**F64),
    "actnorm": lambda: ActNorm(**F64),
    "conv_lu": lambda: InvertibleConv("lu", **F64),
    "conv_plain": lambda: InvertibleConv("plain", **F64),
    "conv_shuffle": lambda: InvertibleConv("shuffle", seed=3, **F64),
    "conv_reverse": lambda: InvertibleConv("reverse", **F64),
    "coupling_affine_sigmoid": lambda: make_coupling(scale="sigmoid", **F64),
    "coupling_affine_exp": lambda: make_coupling(scale="exp", **F64),
    "coupling_affine_tanh": lambda: make_coupling(scale="tanh", **F64),
    "coupling_additive": lambda: make_coupling(kind="additive", **F64),
    "coupling_own_network": lambda: make_coupling(network=written("", TwoConvolutions(width=7)), **F64),
    "coupling_bias": lambda: make_coupling(norm="bias", **F64),
    "coupling_silu_unbounded": lambda: make_coupling(activation="silu", bounded=False, **F64),
    "coupling_leaky_relu": lambda: make_coupling(activation="leaky_relu", **F64),
    "split_bounded": lambda: Split("learned", bounded=True, **F64),
    "split_learned": lambda: Split("learned", **F64),
    "split_standard": lambda: Split("standard", **F64),
    "prior_learned": lambda: GaussianBase("learned", **F64),
    "prior_standard": lambda: GaussianBase("standard", **F64),
    "flow_step_lu": lambda: make_flow_step(**F64),
    "flow_step_own": lambda: OwnFlowStep(written("bijectors", Negate), config.CouplingConfig(6), **F64),
    "haar": lambda: Haar(**F64),
    "haar_orthonormal": lambda: Haar(orthonormal=True, **F64),
    "last_row": lambda: LastLine(1, **F64),
    "last_column": lambda: LastLine(2, **F64),
    "flow_split": make_flow_split,
    "flow_split_own": lambda: make_flow_split(bijectors=written("bijectors", Negate)),
    "chain": lambda: Chain([ActNorm(**F64), Squeeze(**F64), make_flow_step(**F64), Split(**F64)], **F64),
    "stack": lambda: Stack(make_flow_step(**F64), 3, **F64),
    "stack_bias": lambda: Stack(make_flow_step(norm="bias", **F64), 3, **F64),
    "glow_across_block": make_glow(parts="across_block:3", local_prior="learned"),
    "glow_tanh_reverse": make_glow(scale="tanh", permutation="reverse"),
    "glow_of_2018": make_glow(squeeze="pixels", bounded=False),
}

# Of those below, as of each kind, the others have what is to be tested.
SLOW = {
    "dequantize_16",
    "conv_reverse",
    "glow_of_2018",
    "split_standard",
    "prior_standard",
    "glow_tanh_reverse",
}


def of_each(factories):
    return [
        pytest.param(make, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, make in factories.items()
    ]


IN_PARTS = {name: make for name, make in BIJECTORS.items() if not name.startswith("glow")}

REPEATABLES = {
    name: make
    for name, make in BIJECTORS.items()
    if name.startswith(("actnorm", "conv", "coupling", "flow_step"))
}


def shape_of(layer):
    """Returns the shape of images for a bijector: a last row is factored out where the height is odd."""
    odd = {1: (3, 4, 4), 2: (4, 3, 4)}
    return odd[layer.axis] if isinstance(layer, LastLine) else SHAPE


def perturbed(make):
    layer = make()
    if not layer.built:
        layer.build((None, *SHAPE))
    perturb(layer)
    return layer


@pytest.fixture(scope="module", params=of_each(BIJECTORS))
def bijector(request):
    return perturbed(request.param)


@pytest.fixture(scope="module", params=of_each(REPEATABLES))
def repeatable(request):
    return perturbed(request.param)


@pytest.fixture(scope="module", params=of_each(IN_PARTS))
def in_part(request):
    return perturbed(request.param)


@pytest.fixture
def shape(request):
    names = [name for name in ("bijector", "repeatable", "in_part") if name in request.fixturenames]
    return shape_of(request.getfixturevalue(names[0])) if names else SHAPE


@pytest.fixture
def so_far(rng, shape):
    """What a part may have made before a bijector."""
    return PartOutput(*(tf.constant(rng.normal(size=size)) for size in ((3, *shape), 3, 3, 3)))._replace(
        latents=(tf.ones([3, 2, 2, 5], tf.float64),)
    )


@pytest.fixture
def x(rng, shape):
    return tf.constant(rng.normal(size=(3, *shape)))


def test_the_contract_has_eight_methods():
    added = {name for name in dir(Bijector) if not name.startswith("_")} - set(dir(keras.Layer))
    in_parts = {"forward_in_part", "inverse_in_part", "initialize_in_part", "pass_on"}
    assert added == {"forward_and_log_det", "inverse_and_log_det", "initialize", "shapes"} | in_parts


def test_inverses_jacobians_batches_and_copies_are_right(bijector, shape):
    check(bijector, shape)


WRONG = {
    "log_det": r"log-determinant by forward_and_log_det of Tripled must be that of its Jacobian; it is 70\.",
    "inverse": r"inverse of Tripled must undo forward; it is 0\.001 away, and rounding explains 1e-08",
    "batch": "an example alone must get of forward_and_log_det of Tripled what it gets in a batch",
    "config": "what get_config and the weights make again must do as Tripled does",
    "shape": r"log-determinant by forward_and_log_det of Tripled must be \[B\]",
}


@keras.saving.register_keras_serializable(package="tests")
class Tripled(Bijector):
    """Right, but for one thing; training notices none."""

    def __init__(self, wrong="config", factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.wrong, self.factor = wrong, factor

    def forward_and_log_det(self, x):
        log_det = tf.fill(x.shape[:1], tf.constant(64 * np.log(self.factor), x.dtype))
        x -= tf.reduce_mean(x, axis=0) if self.wrong == "batch" else 0
        log_det = {"log_det": 2 * log_det, "shape": log_det[0]}.get(self.wrong, log_det)
        return self.factor * x, log_det

    def inverse_and_log_det(self, y):
        return y / self.factor + 0.001 * (self.wrong == "inverse"), -self.forward_and_log_det(y)[1]

    def get_config(self):
        own = {} if self.wrong == "config" else {"wrong": self.wrong, "factor": self.factor}
        return {**super().get_config(), **own}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_check_says_what_is_wrong(wrong):
    with pytest.raises(ValueError, match=f"{WRONG[wrong]}.*Received: "):
        check(Tripled(wrong, factor=3.0), SHAPE)


def test_the_check_leaves_weights_as_they_were_and_takes_layers_of_float32():
    layer = make_coupling(kind=written("", Triple))
    layer.build((None, *SHAPE))
    before = layer.get_weights()
    check(layer, SHAPE)
    check(Shear(), (4, 4, 3))  # as the guide does
    for mine, kept in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, kept)


def test_in_a_part_a_bijector_adds_its_latents_and_its_likelihood(in_part, so_far):
    output = in_part.forward_in_part(so_far)
    assert output.latents[:1] == so_far.latents
    y, log_det = in_part.forward_and_log_det(so_far.h)
    axis = in_part.axis if isinstance(in_part, LastLine) else -1
    np.testing.assert_array_equal(tf.concat([output.h, *output.latents[1:]], axis), y)
    added = log_det + sum(standard_normal_log_prob(eps) for eps in output.latents[1:])
    np.testing.assert_allclose(
        output.log_likelihood_term, so_far.log_likelihood_term + added, rtol=1e-12, atol=1e-12
    )
    shapes = in_part.shapes(tuple(so_far.h.shape))
    assert shapes == (tuple(output.h.shape), tuple(tuple(eps.shape) for eps in output.latents[1:]))


def test_in_a_part_a_bijector_is_undone_with_its_own_latents(in_part, so_far):
    output = in_part.forward_in_part(so_far)
    h, latents = in_part.inverse_in_part(output.h, output.latents, tf.identity)
    np.testing.assert_allclose(h, so_far.h, atol=1e-9)
    assert latents == so_far.latents


def test_in_a_part_initialisation_returns_what_goes_on(in_part, so_far):
    twin = _twin(in_part)
    h = twin.initialize_in_part(so_far.h)
    np.testing.assert_allclose(h, twin.forward_in_part(so_far).h, atol=1e-9)


def test_log_determinants_by_place_add_up(in_part, so_far):
    h, latents, places = places_in_part(in_part, so_far.h)
    output = in_part.forward_in_part(PartOutput.start(so_far.h))
    for mine, expected in zip((h, *latents), (output.h, *output.latents), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-10)
    np.testing.assert_allclose(tf.reduce_sum(places, [1, 2]), output.log_det_of_all, atol=1e-9)


def test_weights_by_step_make_the_same_bijector_again(in_part):
    weights, twin = get_weights_by_step([in_part]), _twin(in_part)
    assert len(weights) == len(in_part.weights) * (in_part.count if isinstance(in_part, Stack) else 1)
    twin.set_weights([np.zeros_like(value) for value in twin.get_weights()])
    set_weights_by_step([twin], weights)
    for mine, others in zip(twin.get_weights(), in_part.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_a_part_takes_a_bijector_of_ones_own_that_factors_latents_out(x):
    part = Part([Negate(**F64), LastChannelOut(**F64), Negate(**F64)], GaussianBase(**F64), **F64)
    part.build(x.shape)
    output = part.call(x)
    assert part.latent_shapes == [(4, 4, 1)]
    assert part.output_event_shape == output.h.shape[1:] == (4, 4, 3)
    np.testing.assert_array_equal(part.inverse(output.h, output.latents), x)
    np.testing.assert_array_equal(part.initialize(x), output.h)
    np.testing.assert_allclose(part.truncated_nll(output), -standard_normal_log_prob(x), rtol=1e-12)


def test_folded_weights_do_what_the_weights_do(repeatable, x):
    folded = repeatable.fold()
    y, log_det = repeatable.forward_and_log_det(x)
    for mine, expected in zip(repeatable.forward_folded(x, folded), (y, log_det), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [
        make_coupling,
        make_flow_step,
        lambda **kw: Stack(make_flow_step(seed=1, **kw), 3, **kw),
    ],
    ids=["coupling", "flow_step", "stack"],
)
def test_any_number_of_channels_will_do(make, channels, rng):
    x = tf.constant(rng.normal(size=(3, 4, 4, channels)))
    layer = make(**F64)
    layer.build(x.shape)
    perturb(layer)
    check(layer, x.shape[1:])
    if channels > 1:  # a matrix of one number has no triangles
        test_gradients_reach_every_trainable_weight(layer, x)


def test_couplings_of_one_channel_take_turns_with_the_colours_of_a_chessboard(rng):
    x = tf.constant(rng.normal(size=(1, 4, 4, 1)))
    stays = []
    for seed in (0, 1):
        layer = make_coupling(seed=seed, **F64)
        layer.build(x.shape)
        perturb(layer)
        stays.append(layer.forward_and_log_det(x)[0][0, ..., 0] == x[0, ..., 0])
    assert np.logical_xor(*stays).all()
    assert stays[0].numpy().sum() == 8


def test_a_new_coupling_is_one_registered_transform(x, eager):
    settings = {"kind": written("", SinhArcsinh), **F64}
    for layer in (
        make_flow_step(**settings),
        Stack(make_flow_step(**settings), 2, **F64),
    ):
        layer.build((None, *SHAPE))
        perturb(layer)
        check(layer, SHAPE)
        test_gradients_reach_every_trainable_weight(layer, x)
        if isinstance(layer, Repeatable):
            test_folded_weights_do_what_the_weights_do(layer, x)
    model = small_config(coupling=written("", SinhArcsinh), image_shape=SHAPE, num_blocks=1, parts="1")
    assert np.isfinite(Flow(model).log_prob(np.zeros((2, *SHAPE), np.uint8))).all()


def test_gradients_reach_every_trainable_weight(bijector, x):
    with tf.GradientTape() as tape:
        y, log_det = bijector.forward_and_log_det(x)
        loss = tf.reduce_sum(tf.square(y)) + tf.reduce_sum(log_det)
    # A middle part's local base is in no likelihood of the whole chain.
    weights = [
        w
        for w in bijector.trainable_variables
        if "part_1/prior" not in w.path and "part_2/prior" not in w.path
    ]
    if isinstance(bijector, Flow) and len(bijector.parts) == 2:
        weights += bijector.parts[-1].base.trainable_variables
    gradients = tape.gradient(loss, [w.value for w in weights])
    assert all(g is not None for g in gradients)
    assert all(float(tf.reduce_max(tf.abs(g))) > 0 for g in gradients if g.shape != ())


@pytest.mark.parametrize("scale", [1e-6, pytest.param(10.0, marks=pytest.mark.slow), 1e3])
def test_extreme_inputs_stay_finite_and_come_back(bijector, x, scale):
    y, log_det = bijector.forward_and_log_det(scale * x)
    back, _ = bijector.inverse_and_log_det(y)
    for result in (y, log_det, back):
        assert np.isfinite(result).all()
    if scale == 1e3 and isinstance(bijector, Flow):
        return  # 250 times the range of the data: several couplings at their bounds lose all digits
    np.testing.assert_allclose(back, scale * x, atol=1e-6 * max(scale, 1))


def test_extreme_weights_stay_finite_both_ways(bijector, x, request):
    if isinstance(bijector, Chain | Stack | Flow):
        pytest.skip("a deep chain of extreme layers may overflow; a single layer may not")
    request.addfinalizer(functools.partial(bijector.set_weights, bijector.get_weights()))
    for weight in bijector.trainable_variables:
        if weight.path.endswith(("bias", "raw_log_scale", "raw_log_deviation")):
            weight.assign(weight + 1e3)
        elif weight.path.endswith("kernel") and "conv" not in weight.path:
            weight.assign(weight * 1e2)
    for result in (*bijector.forward_and_log_det(x), *bijector.inverse_and_log_det(x)):
        assert np.isfinite(result).all()


@pytest.mark.parametrize("layer", [ActNorm(), InvertibleConv(), make_coupling(4), Split(), make_flow_step(4)])
def test_inverse_before_build_raises(layer):
    with pytest.raises(ValueError, match="built=False"):
        layer.inverse_and_log_det(tf.zeros([1, *SHAPE]))


CONDITION = 3  # channels
READS = {"condition_channels": CONDITION}
CONDITIONED = {
    "coupling": lambda: make_coupling(**READS, **F64),
    "coupling_additive": lambda: make_coupling(kind="additive", norm="bias", **READS, **F64),
    "flow_step": lambda: make_flow_step(**READS, **F64),
    "chain": lambda: Chain([ActNorm(**F64), make_flow_step(**READS, **F64), Split(**READS, **F64)], **F64),
    "stack": lambda: Stack(make_flow_step(**READS, **F64), 3, **F64),
    "split": lambda: Split(**READS, **F64),
    "base": lambda: GaussianBase("learned", **READS, **F64),
    "flow_split": lambda: make_flow_split(given=CONDITION),
}
GIVEN = {
    "map": {"": (4, 4, 3)},
    "finer_map": {"": (8, 8, 3)},
    "coarser_map": {"": (2, 2, 3)},
    "other_map": {"": (5, 3, 3)},
    "vector": {"": (3,)},
    "several": {"map": (4, 4, 2), "vector": (1,)},
}


def given(kind, rng, batch=3):
    """Returns a condition of a kind."""
    found = {name: tf.constant(rng.normal(size=(batch, *shape))) for name, shape in GIVEN[kind].items()}
    return found.get("", found)


@pytest.fixture(scope="module", params=CONDITIONED.values(), ids=CONDITIONED.keys())
def conditioned(request):
    return perturbed(request.param)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ("other_map", "several") else pytest.mark.slow) for k in GIVEN]
)
def test_given_a_condition_a_bijector_keeps_the_contract(conditioned, kind, x, rng):
    condition = given(kind, rng)
    together = conditioned.forward_and_log_det(x, Context(condition))
    for k in range(3):
        one = tf.nest.map_structure(lambda member, k=k: member[k : k + 1], condition)
        alone = conditioned.forward_and_log_det(x[k : k + 1], Context(one))
        for mine, among_others in zip(alone, together, strict=True):
            np.testing.assert_allclose(mine, among_others[k : k + 1], atol=1e-10)

    def repeated(method):
        return lambda x: method(x, Context(tf.nest.map_structure(lambda m: tf.repeat(m, len(x), 0), one)))

    check_map(repeated(conditioned.forward_and_log_det), repeated(conditioned.inverse_and_log_det), x)


def test_the_gradient_of_a_condition_is_that_of_finite_differences(conditioned, x, rng):
    condition, direction = given("map", rng), tf.constant(rng.normal(size=(3, 4, 4, 3)))

    def loss(condition):
        y, log_det = conditioned.forward_and_log_det(x, Context(condition))
        return tf.reduce_sum(y**2) + tf.reduce_sum(tf.sin(log_det))

    with tf.GradientTape() as tape:
        tape.watch(condition)
        value = loss(condition)
    gradient = tf.reduce_sum(tape.gradient(value, condition) * direction)
    step = 1e-6
    difference = (loss(condition + step * direction) - loss(condition - step * direction)) / (2 * step)
    assert abs(float(difference)) > 1e-3
    np.testing.assert_allclose(gradient, difference, rtol=1e-5)


@pytest.mark.parametrize("kind", ["map", pytest.param("vector", marks=pytest.mark.slow)])
def test_recomputation_gives_the_same_gradients_given_a_condition(kind, x, rng):
    condition, found = given(kind, rng), []
    stack = perturbed(CONDITIONED["stack"])
    for mode in (Mode(), Mode(recompute=True)):

        @tf.function(autograph=False)
        def gradients(mode=mode):
            with tf.GradientTape() as tape:
                tape.watch((x, condition))
                y, log_det = stack.forward_and_log_det(x, Context(condition, mode))
                loss = tf.reduce_sum(y**2) + tf.reduce_sum(tf.sin(log_det))
            return loss, tape.gradient(loss, [x, condition, *stack.trainable_variables])

        found.append(gradients())
    for mine, theirs in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)


def test_a_bijector_that_reads_no_condition_ignores_it_to_the_bit(bijector, x, rng):
    if isinstance(bijector, Flow):
        pytest.skip("it is no bijector of a part")
    handed = read_by(bijector, Context(given("map", rng)))
    y, _ = bijector.forward_and_log_det(x)
    plain = bijector.forward_and_log_det(x), bijector.inverse_and_log_det(y)
    others = bijector.forward_and_log_det(x, *handed), bijector.inverse_and_log_det(y, *handed)
    for mine, theirs in zip(tf.nest.flatten(plain), tf.nest.flatten(others), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("wrong", [None, (4, 4, 2), (5,), (3, 4, 4, 3)], ids=str)
def test_a_condition_that_is_missing_or_of_another_size_is_refused(conditioned, wrong, x):
    condition = None if wrong is None else tf.zeros((3, *wrong))
    with pytest.raises(ValueError, match=r"condition must have 3 channels.*Received"):
        conditioned.forward_and_log_det(x, Context(condition))


def test_initialisation_sees_the_condition(x, rng):
    condition = 5 + given("map", rng)
    layer = make_coupling(**READS, **F64)
    layer.initialize(x, Context(condition))
    network = layer.network
    added = network.hidden[0].convolve(condition, network.reading.value)
    before = network.hidden[0].convolve(x[..., :2], network.hidden[0].kernel.value) + added
    normed = network.hidden[0].actnorm.forward_and_log_det(before)[0]
    np.testing.assert_allclose(tf.reduce_mean(normed, axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(tf.math.reduce_std(normed, axis=(0, 1, 2)), 1, atol=1e-4)


INVALID = {
    "one_channel_split": (lambda: Split().build((None, 4, 4, 1)), "two channels or more"),
    "odd_height": (lambda: Squeeze().build((None, 3, 4, 1)), "even height"),
    "n_bits": (lambda: Dequantize(17), "n_bits must be an integer from 1 to 16"),
    "coupling": (lambda: make_coupling(kind="linear"), "kind must be one of"),
    "scale": (lambda: make_coupling(scale="relu"), "scale must be one of"),
    "permutation": (lambda: InvertibleConv("qr"), "kind must be one of"),
    "base": (lambda: Split("flow"), "base must be one of"),
    "norm": (lambda: make_coupling(norm="batch"), "norm must be one of"),
    "empty_chain": (lambda: Chain([]), "at least one bijector"),
    "stack_of_squeeze": (lambda: Stack(Squeeze(), 2), "derives from Repeatable"),
}


@pytest.mark.parametrize(("make", "match"), INVALID.values(), ids=INVALID.keys())
def test_invalid_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=rf"{match}.*Received"):
        make()


def _twin(bijector):
    """Returns a bijector of the same config and weights."""
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(bijector))
    if not twin.built:
        twin.build((None, *SHAPE))
    twin.set_weights(bijector.get_weights())
    return twin


def test_a_coupling_refuses_what_is_no_coupling_config():
    with pytest.raises(TypeError, match=r"needs a CouplingConfig.*Received: config=6"):
        Coupling(6)
