"""How the results were found, from a clone: studies of many runs, a planner, benchmarks. Not installed."""

import pathlib

CONFIGS = pathlib.Path(__file__).parent / "configs"
