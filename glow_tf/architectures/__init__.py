"""Kinds of flows, and what the settings of a model mean. Loads no TensorFlow by itself."""

from glow_tf.architectures.architecture import Architecture as Architecture
from glow_tf.architectures.design import architecture as architecture
from glow_tf.architectures.design import check_run as check_run
from glow_tf.architectures.design import design_of as design_of
from glow_tf.architectures.glow import MultiScale as MultiScale
from glow_tf.architectures.levels import Levels as Levels
from glow_tf.architectures.partition import Element as Element
from glow_tf.architectures.partition import PartLayout as PartLayout
