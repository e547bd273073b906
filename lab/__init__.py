"""How the results were found, from a clone: studies of many runs, and benchmarks. Not installed."""

import pathlib

CONFIGS = pathlib.Path(__file__).parent / "configs"
