"""Trained models kept as plain files, and those that come with the package."""

from glow_tf.presets.files import CATALOGUE as CATALOGUE
from glow_tf.presets.files import OWN as OWN
from glow_tf.presets.files import WEIGHTS as WEIGHTS
from glow_tf.presets.files import about as about
from glow_tf.presets.files import find as find
from glow_tf.presets.files import model_of_settings as model_of_settings
from glow_tf.presets.files import names as names
from glow_tf.presets.files import read_about as read_about
from glow_tf.presets.files import read_model as read_model
from glow_tf.presets.files import read_model_file as read_model_file
from glow_tf.presets.files import refers_to_preset as refers_to_preset
from glow_tf.presets.files import write as write
