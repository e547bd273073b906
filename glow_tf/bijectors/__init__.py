"""Invertible Keras layers; `bijector.py` states the contract that all of them keep."""

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.bijector import Bijector
from glow_tf.bijectors.chain import Chain
from glow_tf.bijectors.class_prior import ClassPrior
from glow_tf.bijectors.condition_network import ConditionNetwork
from glow_tf.bijectors.coupling import Coupling
from glow_tf.bijectors.dequantize import Dequantize
from glow_tf.bijectors.equalize import Equalize
from glow_tf.bijectors.flow_split import FlowSplit
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.gaussian_prior import GaussianPrior
from glow_tf.bijectors.haar import Haar
from glow_tf.bijectors.invertible_conv import InvertibleConv
from glow_tf.bijectors.repeatable import Repeatable
from glow_tf.bijectors.split import Split
from glow_tf.bijectors.squeeze import Squeeze
from glow_tf.bijectors.stack import Stack
from glow_tf.bijectors.standardize import Standardize
from glow_tf.bijectors.uniform_prior import UniformPrior

__all__ = [
    "ActNorm",
    "Bijector",
    "Chain",
    "ClassPrior",
    "ConditionNetwork",
    "Coupling",
    "Dequantize",
    "Equalize",
    "FlowSplit",
    "FlowStep",
    "GaussianPrior",
    "Haar",
    "InvertibleConv",
    "Repeatable",
    "Split",
    "Squeeze",
    "Stack",
    "Standardize",
    "UniformPrior",
]
