"""Packaging: the installable `glow_tf` library (the commands in train/ are run in place)."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "glow_tf" / "__init__.py").read_text()).group(1)

setup(
    name="glow_tf",
    version=VERSION,
    description="Glow trained in gradient-isolated parts, in Keras 3 and TensorFlow",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["glow_tf", "glow_tf.*"]),
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.8",
        "tensorflow-probability>=0.25",
        "tf-keras>=2.18",  # tensorflow-probability imports it without declaring it
        "tensorflow-datasets>=4.9.7",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "tensorboard>=2.18",  # newer TensorFlow releases no longer bring it
        "scikit-learn>=1.3",
        "pillow>=10",
        "absl-py>=2",
        "numpy>=1.26",
    ],
    extras_require={
        "bench": ["normflows>=1.7", "matplotlib>=3.7"],  # what train/benchmark.py compares with and plots
    },
)
