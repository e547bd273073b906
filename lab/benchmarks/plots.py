"""Plots of what benchmarks measure."""

import pathlib
from collections.abc import Mapping, Sequence


def bars(rows: Sequence[Sequence[str]], path: pathlib.Path) -> None:
    """Draws the median time of every row."""
    plt = _pyplot()
    labels = [f"{row[1]} ({row[0]})" for row in rows]
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(rows) + 1.2), layout="constrained")
    axes.barh(labels, [float(row[2]) for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("median milliseconds per run")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def against_depth(curves: Mapping[str, tuple], path: pathlib.Path) -> None:
    """Draws activations and time per step against depth."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for label, (depths, found) in curves.items():
        for axis, key, scale in zip(axes, ("activations_mb", "seconds"), (1, 1000), strict=True):
            axis.plot(depths, [scale * f[key] for f in found], marker="o", label=label)
    for axis, title in zip(axes, ("activations, MB", "milliseconds per step"), strict=True):
        axis.set_xlabel("flow steps per block")
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def by_class(classes: Sequence[str], shares: Mapping[str, Sequence[float]], path: pathlib.Path) -> None:
    """Draws shares of images, a bar for each class and kind of share; beside a CSV, as PNG."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    thickness = 0.8 / len(shares)
    for number, (what, values) in enumerate(shares.items()):
        axes.bar([k + number * thickness for k in range(len(classes))], values, thickness, label=what)
    axes.axhline(1 / len(classes), color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks([k + 0.4 - thickness / 2 for k in range(len(classes))], classes)
    axes.set_ylabel("share of images")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(shares))
    figure.savefig(path.with_suffix(".png"), dpi=120)


def _pyplot():
    import matplotlib  # slow to load

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
