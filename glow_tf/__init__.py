"""Glow trained in gradient-isolated parts, in Keras 3 and TensorFlow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from glow_tf.core.lazy import lazy_exports
from glow_tf.version import __version__ as __version__

# TensorFlow leaves oneDNN off on CPUs without AVX-512, where a step then takes 1.5 times as long. This has no
# effect if TensorFlow was imported before.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Where there is no GPU, TensorFlow logs as an error that it finds none. Where there is one, errors are shown.
_gpus = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of Windows' Linux, of AMD
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if any(map(os.path.exists, _gpus)) else "3")

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": ["DataConfig", "ModelConfig", "RunConfig", "TrainConfig"],
        "core.errors": ["ConfigError", "DivergedError"],
        "architectures.schedule": ["Phase", "end_to_end", "one_part", "phases", "simultaneous"],
        "model.parts": ["Part", "PartOutput"],
        "model.passage": ["PartView"],
        "model.flow": ["Flow", "Glow"],
        "training.objective": ["LocalObjective"],
        "training.trainer": ["PartsTrainer"],
        "store.models": ["load", "save"],
        "use.exports": ["export"],
        "use.runs": ["load_trainer"],
        "use.score.detector": ["NoveltyDetector"],
        "use.tfp_views": ["as_distribution", "as_tfp_bijector"],
    },
    packages=["bijectors", "data", "devices", "run", "store", "training", "use"],
)

if TYPE_CHECKING:
    from glow_tf.architectures.schedule import Phase as Phase
    from glow_tf.architectures.schedule import end_to_end as end_to_end
    from glow_tf.architectures.schedule import one_part as one_part
    from glow_tf.architectures.schedule import phases as phases
    from glow_tf.architectures.schedule import simultaneous as simultaneous
    from glow_tf.config import DataConfig as DataConfig
    from glow_tf.config import ModelConfig as ModelConfig
    from glow_tf.config import RunConfig as RunConfig
    from glow_tf.config import TrainConfig as TrainConfig
    from glow_tf.core.errors import ConfigError as ConfigError
    from glow_tf.core.errors import DivergedError as DivergedError
    from glow_tf.model.flow import Flow as Flow
    from glow_tf.model.flow import Glow as Glow
    from glow_tf.model.parts import Part as Part
    from glow_tf.model.parts import PartOutput as PartOutput
    from glow_tf.model.passage import PartView as PartView
    from glow_tf.store.models import load as load
    from glow_tf.store.models import save as save
    from glow_tf.training.objective import LocalObjective as LocalObjective
    from glow_tf.training.trainer import PartsTrainer as PartsTrainer
    from glow_tf.use.exports import export as export
    from glow_tf.use.runs import load_trainer as load_trainer
    from glow_tf.use.score.detector import NoveltyDetector as NoveltyDetector
    from glow_tf.use.tfp_views import as_distribution as as_distribution
    from glow_tf.use.tfp_views import as_tfp_bijector as as_tfp_bijector
