"""Glow trained in gradient-isolated parts, in Keras 3 and TensorFlow."""

import os

__version__ = "0.1.0"

# TensorFlow leaves oneDNN off on CPUs without AVX-512, where a step then takes 1.5 times as long. (No effect
# where TensorFlow was imported before.)
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from glow_tf.checkpoints import load
from glow_tf.config import ConfigError, DataConfig, ModelConfig, RunConfig, TrainConfig
from glow_tf.export import export
from glow_tf.glow import Glow
from glow_tf.parts import Part, PartOutput
from glow_tf.schedule import Phase, phases
from glow_tf.trainer import NonFiniteError, PartsTrainer

__all__ = [
    "ConfigError",
    "DataConfig",
    "Glow",
    "ModelConfig",
    "NonFiniteError",
    "Part",
    "PartOutput",
    "PartsTrainer",
    "Phase",
    "RunConfig",
    "TrainConfig",
    "as_distribution",
    "as_tfp_bijector",
    "export",
    "load",
    "phases",
]


def __getattr__(name: str):
    """Imports the TFP views on first use: TFP takes a second to import and training does not need it."""
    if name in ("as_distribution", "as_tfp_bijector"):
        from glow_tf import tfp_views

        return getattr(tfp_views, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
