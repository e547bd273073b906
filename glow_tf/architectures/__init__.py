"""Kinds of flows: each says in one file all that is particular to it. Loads no TensorFlow by itself."""

from glow_tf.architectures.architecture import Architecture as Architecture
from glow_tf.architectures.glow import MultiScale as MultiScale
from glow_tf.architectures.levels import Levels as Levels
