"""Independent implementations compute the same numbers from the same weights."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small import make_coupling, make_flow_step, perturb

from glow_tf.bijectors import ActNorm, InvertibleConv, Squeeze
from glow_tf.bijectors.likelihood import standard_normal_log_prob

tfb, tfd = tfp.bijectors, tfp.distributions
SHAPE = (5, 4, 4, 4)


@pytest.fixture
def x(rng):
    return tf.constant(rng.normal(size=SHAPE))


def built(layer):
    layer.build((None, *SHAPE[1:]))
    perturb(layer)
    return layer


def same_map(layer, oracle, x):
    y, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(oracle.forward(x), y, atol=1e-10)
    np.testing.assert_allclose(oracle.forward_log_det_jacobian(x, event_ndims=3), log_det, atol=1e-9)
    np.testing.assert_allclose(oracle.inverse(tf.identity(y)), layer.inverse_and_log_det(y)[0], atol=1e-10)


def test_actnorm_is_tfps_shift_and_scale(x):
    layer = built(ActNorm(dtype="float64"))
    scale = tfb.Scale(log_scale=layer.log_scale.value)
    same_map(layer, tfb.Chain([scale, tfb.Shift(layer.bias.value)]), x)


@pytest.mark.parametrize("kind", ["lu", "plain", "shuffle"])
def test_conv_is_tfps_dense_matvec(kind, x):
    layer = built(InvertibleConv(kind, dtype="float64"))
    lower_upper, permutation = tf.linalg.lu(layer.matrix())
    same_map(layer, tfb.ScaleMatvecLU(lower_upper, permutation), x)


def _tfp_step(step):
    """Composes a flow step from TFP's own pieces, around the same network."""

    def scale_and_shift(a, units, **condition):
        shift, log_scale = step.coupling.parameters(a)
        return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=log_scale)])

    lower_upper, permutation = tf.linalg.lu(step.conv.matrix())
    return tfb.Chain(
        [
            tfb.RealNVP(num_masked=2, bijector_fn=scale_and_shift),
            tfb.ScaleMatvecLU(lower_upper, permutation),
            tfb.Scale(log_scale=step.actnorm.log_scale.value),
            tfb.Shift(step.actnorm.bias.value),
        ]
    )


@pytest.mark.parametrize("scale", ["sigmoid", "exp", "tanh", "tanh:1"])
def test_coupling_is_tfps_real_nvp(scale, x):
    layer = built(make_coupling(6, scale=scale, dtype="float64"))

    def scale_and_shift(a, units, **condition):
        shift, log_scale = layer.parameters(a)
        return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=log_scale)])

    same_map(layer, tfb.RealNVP(num_masked=2, bijector_fn=scale_and_shift), x)


def test_flow_steps_score_as_tfps_transformed_distribution(x):
    steps = [built(make_flow_step(6, seed=s, dtype="float64")) for s in (1, 2)]
    base = tfd.Sample(tfd.Normal(np.float64(0), 1), SHAPE[1:])
    to_data = tfb.Invert(tfb.Chain([_tfp_step(step) for step in reversed(steps)]))
    z, log_det = x, 0
    for step in steps:
        z, change = step.forward_and_log_det(z)
        log_det += change
    expected = tfd.TransformedDistribution(base, to_data).log_prob(x)
    np.testing.assert_allclose(standard_normal_log_prob(z) + log_det, expected, rtol=1e-10)


def test_squeeze_is_a_permutation_that_undoes_itself(x):
    y = Squeeze(dtype="float64").forward_and_log_det(x)[0]
    np.testing.assert_array_equal(np.sort(y.numpy().ravel()), np.sort(x.numpy().ravel()))
    np.testing.assert_array_equal(y[:, 0, 0], tf.reshape(x[:, :2, :2], [5, 16]))


def test_actnorm_conv_and_coupling_equal_normflows(x):
    """Optional: needs `pip install normflows` (PyTorch)."""
    torch = pytest.importorskip("torch")
    nf = pytest.importorskip("normflows")
    channels_first = torch.tensor(x.numpy()).permute(0, 3, 1, 2)

    conv = built(InvertibleConv("plain", dtype="float64"))
    theirs = nf.flows.Invertible1x1Conv(4, use_lu=False).double()
    theirs.W.data = torch.tensor(conv.matrix().numpy())  # its forward, latent → data, inverts W
    y, log_det = theirs.inverse(channels_first)
    np.testing.assert_allclose(y.detach().permute(0, 2, 3, 1), conv.forward_and_log_det(x)[0], atol=1e-10)
    np.testing.assert_allclose(log_det.detach() * np.ones(5), conv.forward_and_log_det(x)[1], atol=1e-9)

    norm = built(ActNorm(dtype="float64"))
    theirs = nf.flows.ActNorm((4, 1, 1)).double()
    theirs.data_dep_init_done = torch.tensor(1.0)
    theirs.s.data = torch.tensor(-norm.log_scale.numpy()).reshape(1, 4, 1, 1)
    theirs.t.data = torch.tensor(-norm.bias.numpy()).reshape(1, 4, 1, 1)
    y, log_det = theirs.inverse(channels_first)
    np.testing.assert_allclose(y.detach().permute(0, 2, 3, 1), norm.forward_and_log_det(x)[0], atol=1e-10)
    np.testing.assert_allclose(log_det.detach() * np.ones(5), norm.forward_and_log_det(x)[1], atol=1e-9)

    coupling = built(make_coupling(6, scale="exp", dtype="float64"))

    class SameNetwork(torch.nn.Module):
        def forward(self, a):
            shift, log_scale = coupling.parameters(tf.constant(a.permute(0, 2, 3, 1).numpy()))
            both = np.stack([shift.numpy(), log_scale.numpy()], axis=-1).reshape(*shift.shape[:-1], -1)
            return torch.tensor(both).permute(0, 3, 1, 2)

    theirs = nf.flows.AffineCouplingBlock(SameNetwork(), scale_map="exp", split_mode="channel").double()
    y, log_det = theirs.forward(channels_first)
    np.testing.assert_allclose(y.detach().permute(0, 2, 3, 1), coupling.forward_and_log_det(x)[0], atol=1e-10)
    np.testing.assert_allclose(log_det.detach(), coupling.forward_and_log_det(x)[1], atol=1e-9)
