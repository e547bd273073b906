"""Invertible Keras layers; `bijector.py` states the contract that all of them keep."""

from glow_tf.bijectors.actnorm import ActNorm as ActNorm
from glow_tf.bijectors.bases import GaussianBase as GaussianBase
from glow_tf.bijectors.bases import UniformBase as UniformBase
from glow_tf.bijectors.bijector import Bijector as Bijector
from glow_tf.bijectors.bijector import Repeatable as Repeatable
from glow_tf.bijectors.checking import check as check
from glow_tf.bijectors.coupling import Coupling as Coupling
from glow_tf.bijectors.entrance import Dequantize as Dequantize
from glow_tf.bijectors.entrance import Equalize as Equalize
from glow_tf.bijectors.entrance import Standardize as Standardize
from glow_tf.bijectors.flow_split import FlowSplit as FlowSplit
from glow_tf.bijectors.flow_step import FlowStep as FlowStep
from glow_tf.bijectors.flow_step import OwnFlowStep as OwnFlowStep
from glow_tf.bijectors.invertible_conv import InvertibleConv as InvertibleConv
from glow_tf.bijectors.networks import ConditionNetwork as ConditionNetwork
from glow_tf.bijectors.own_network import OwnNetwork as OwnNetwork
from glow_tf.bijectors.split import Split as Split
from glow_tf.bijectors.squeeze import Haar as Haar
from glow_tf.bijectors.squeeze import LastLine as LastLine
from glow_tf.bijectors.squeeze import Squeeze as Squeeze
from glow_tf.bijectors.stack import Chain as Chain
from glow_tf.bijectors.stack import Stack as Stack
from glow_tf.bijectors.transforms import Additive as Additive
from glow_tf.bijectors.transforms import Affine as Affine
from glow_tf.bijectors.transforms import Transform as Transform
