"""The settings of a run, as frozen dataclasses that check themselves; every list of choices.

Every setting is one field under one name, which is also the name of its flag; `metadata["help"]` describes
it. A value of the wrong type raises ConfigError. Pure Python: knows neither TensorFlow nor flags.
"""

from __future__ import annotations

from glow_tf.config.choices import AUGMENTATIONS as AUGMENTATIONS
from glow_tf.config.choices import GAUSSIANS as GAUSSIANS
from glow_tf.config.choices import MOST_BLOCKS as MOST_BLOCKS
from glow_tf.config.choices import MOST_EQUALIZED as MOST_EQUALIZED
from glow_tf.config.choices import MOST_SIDE as MOST_SIDE
from glow_tf.config.choices import PERMUTATIONS as PERMUTATIONS
from glow_tf.config.choices import PRIOR as PRIOR
from glow_tf.config.choices import PRIORS as PRIORS
from glow_tf.config.choices import RATE_SCALINGS as RATE_SCALINGS
from glow_tf.config.choices import SAME_FUNCTION as SAME_FUNCTION
from glow_tf.config.choices import SCHEDULES as SCHEDULES
from glow_tf.config.choices import STRATEGIES as STRATEGIES
from glow_tf.config.data import DIGITS as DIGITS
from glow_tf.config.data import FILE as FILE
from glow_tf.config.data import FOLDER as FOLDER
from glow_tf.config.data import INPUT as INPUT
from glow_tf.config.data import LABEL as LABEL
from glow_tf.config.data import TARGET as TARGET
from glow_tf.config.data import DataConfig as DataConfig
from glow_tf.config.data import file_of as file_of
from glow_tf.config.data import folder_of as folder_of
from glow_tf.config.model import CouplingConfig as CouplingConfig
from glow_tf.config.model import ModelConfig as ModelConfig
from glow_tf.config.model import read_local_prior as read_local_prior
from glow_tf.config.model import read_scale as read_scale
from glow_tf.config.run import GROUPS as GROUPS
from glow_tf.config.run import MAY_DIFFER as MAY_DIFFER
from glow_tf.config.run import RunConfig as RunConfig
from glow_tf.config.run import all_settings as all_settings
from glow_tf.config.setting import names_own_layer as names_own_layer
from glow_tf.config.setting import settings_of as settings_of
from glow_tf.config.train import TrainConfig as TrainConfig
from glow_tf.config.train import check_batch as check_batch
from glow_tf.core.errors import ConfigError as ConfigError
