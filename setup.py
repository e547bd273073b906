"""Packaging: the library `glow_tf`, the command `glow-tf` and the configs."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "glow_tf" / "version.py").read_text()).group(1)

setup(
    name="glow_tf",
    version=VERSION,
    description="Glow trained in gradient-isolated parts, in Keras 3 and TensorFlow",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The glow_tf authors",
    license="MIT",
    keywords=["normalizing flows", "density estimation", "local learning", "Keras", "TensorFlow"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["glow_tf", "glow_tf.*"]), "glow_tf.configs"],
    # With this entry alone, an editable install is a path, which type checkers follow. So that is enough,
    # glow_tf/configs is a link to configs.
    package_dir={"": "."},
    package_data={
        "glow_tf": ["py.typed", "presets/*/*"],
        "glow_tf.core": ["*.html"],
        "glow_tf.configs": ["*.cfg"],
    },
    entry_points={"console_scripts": ["glow-tf = glow_tf.commands.cli:main"]},
    # The floors are what `make test-oldest` runs with. The ceilings are the next minor release of TensorFlow,
    # because glow_tf/internals.py uses private interfaces of it.
    install_requires=[
        "tensorflow>=2.18,<2.22",
        # The oldest that refuse known attacks: layers that run a SavedModel, weights in other files
        # (CVE-2025-8747, CVE-2025-49655, GHSA-hqp4-2352-xf5r, CVE-2026-0897, CVE-2026-1462). Keras 3.13 needs
        # Python 3.11.
        'keras>=3.13.2,<4; python_version >= "3.11"',
        'keras>=3.12.1,<4; python_version < "3.11"',
        "tensorflow-probability>=0.25",
        "tf-keras>=2.18,<2.22",  # tensorflow-probability imports it without declaring it
        "tensorflow-datasets>=4.9.7",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "tensorboard>=2.18,<2.22",  # newer TensorFlow releases no longer bring it
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "pillow>=10",
        "absl-py>=2",
        "numpy>=1.26",
        "filelock>=3.13",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.25",  # presets of the Hugging Face Hub
        "tqdm>=4.66",
        "matplotlib>=3.7",  # loaded when a report is drawn
    ],
    extras_require={
        "onnx": ["tf2onnx>=1.16", "onnxruntime>=1.18"],  # models that run without TensorFlow
        "lab": ["normflows>=1.7"],  # to compare
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "mkdocs-jupyter>=0.25", "mike>=2"],
        "notebooks": ["ipykernel>=6", "nbmake>=1.5", "keras-tuner>=1.4"],  # and an example
    },
)
