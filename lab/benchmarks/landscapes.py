"""Trains on 135 drawn landscapes as they come, and asks for the bits of sunsets, which are unlike them.

    python -m lab.benchmarks.landscapes --sizes=16,32 --seeds=0,1,2

The pictures are those of `examples/photographer.py`: 154 of each kind that can be read, every tenth for test.
A run without a flagfile starts from the prior; with `--from_scratch` it trains levels anew. No image should
need more than 16 bits/dim. Runs whose row is in the CSV are not repeated.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from examples.photographer import fill
from glow_tf import DataConfig, data
from glow_tf.commands import cli
from glow_tf.use import evaluate, open_model
from lab.benchmarks.rows import added_to, measured

KINDS = {"landscapes": ((120, 160, 210), 0), "sunsets": ((230, 110, 50), 1)}
STARTS = {"prior": (), "levels": ("--from_scratch",)}
COLUMNS = ("size", "seed", "start", "best_epoch", "epochs", "training_seconds")
COLUMNS += ("landscapes_bpd", "worst_landscape_bpd", "sunsets_bpd", "worst_sunset_bpd")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("sizes", ["16", "32"], "Sides of the images.", flag_values=values)
    flags.DEFINE_list("seeds", ["0"], "Seeds.", flag_values=values)
    flags.DEFINE_string("csv", "landscapes.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Trains, measures, prints and writes."""
    done = measured(given.csv, COLUMNS[:3])
    with tempfile.TemporaryDirectory() as place, added_to(given.csv, COLUMNS) as add:
        folder = pathlib.Path(place)
        for kind, (sky, seed) in KINDS.items():
            fill(folder / kind, sky, seed)
        for size in given.sizes:
            for seed in given.seeds:
                for start in STARTS:
                    if (size, seed, start) not in done:
                        row = [size, seed, start, *_run(folder, int(size), seed, start)]
                        add(row)
                        print(*row, flush=True)


def _run(folder: pathlib.Path, size: int, seed: str, start: str) -> list[object]:
    """Trains in a process of its own, and returns the cells of a row."""
    workdir = folder / f"{size}_{seed}_{start}"
    command = [sys.executable, "-m", "glow_tf.commands", "train", f"--dataset=folder:{folder}/landscapes"]
    command += [f"--image_size={size}", f"--workdir={workdir}", f"--seed={seed}", "--noexport"]
    command += ["--notensorboard", "--sample_every=0", *STARTS[start]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((workdir / "summary.json").read_text())
    cells = [summary.get("best_epoch", ""), summary["epochs"], round(summary["total_seconds"], 1)]
    model = open_model(str(workdir))
    for kind in KINDS:
        images = data.load(DataConfig(f"folder:{folder / kind}", image_size=size)).test
        bits = evaluate(model, images).per_image
        cells += [f"{bits.mean():.3f}", f"{bits.max():.3f}"]
    return cells


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
