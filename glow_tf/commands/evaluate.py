"""Computes the bits per dimension of images under a trained model, and shows where the bits are.

    glow-tf evaluate --model=digits --dataset=digits
    glow-tf evaluate --model=runs/mine --dataset=folder:PATH --draws=16
    glow-tf evaluate --model=cifar10_small --dataset=folder:PATH --image_size=0

With one draw and a run's seed, the mean over its test images is the run's test_bpd (--split=test, where the
run held out every tenth image of a folder). With several draws a tighter bound is printed as well: the
importance-weighted one. Mostly tighter is --noise=variational: noise lies where the model's density is high,
and what this choice costs is counted. It takes nine times as long. --output is a JSON file with all of it.
With --image_size=0 images keep their sizes, which may differ; every image counts alike in the mean.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from glow_tf.commands import input_flags, model_flags, parsing
from glow_tf.config.choices import NOISES
from glow_tf.core.text_files import json_text
from glow_tf.run.report import counted
from glow_tf.run.tables import bpd_text


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="")
    model_flags.define_seed(values)
    model_flags.define_images(values)
    input_flags.define_size(values)
    parsing.define(values, draws=(1, "Noise draws of each image."))
    about = "How noise is drawn; variational: by the model's gradient, mostly a tighter bound."
    flags.DEFINE_enum("noise", "uniform", NOISES, about, flag_values=values)


def main(values: flags.FlagValues) -> None:
    draws = model_flags.count_of(values, "draws")
    path = model_flags.output_path(values, ".json") if values.output else None
    from glow_tf.use import evaluate
    from glow_tf.use.evaluation import check_evaluation, joined

    flow = model_flags.model_of(values)
    check_evaluation(flow, draws, values.noise)  # before images are read
    found, groups = [], []
    for own, used in input_flags.models_and_images(values, flow, gradient=values.noise != "uniform"):
        found.append(evaluate(own, used.images, draws, values.seed, used.condition, values.noise))
        groups.append(used)
    report = _report(joined(found), groups, values.noise)
    print("\n".join(_lines(report)))
    if path:
        model_flags.write(path, json_text(report).encode())


def _report(found: Any, groups: Sequence[Any], noise: str) -> dict[str, Any]:
    """Returns what there is to say of an evaluation of images of several sizes, each a group."""
    from glow_tf.use.evaluation import by_class, mean_and_error

    bpd, error = mean_and_error(found.per_image)
    report: dict[str, Any] = {"images": len(found.per_image), "draws": len(found.draws), "noise": noise}
    if groups[0].images.dtype == np.float32:
        report["nats_per_dim"] = bpd * math.log(2)
    report |= {"bits_per_dim": bpd, "standard_error": error}
    if len(found.draws) > 1:
        bpd, error = mean_and_error(found.tighter)
        report["importance_weighted"] = {"bits_per_dim": bpd, "standard_error": error}
    report["terms"] = {name: float(values.mean()) for name, values in found.terms.items()}
    report["parts"] = {name: float(values.mean()) for name, values in found.parts.items()}
    kinds = {}
    if len(groups) > 1:
        names = ["×".join(map(str, used.images.shape[1:3])) for used in groups]
        kinds["sizes"] = np.repeat(range(len(groups)), [len(used.images) for used in groups]), names
    if groups[0].labels is not None:
        kinds["classes"] = np.concatenate([used.labels for used in groups]), groups[0].class_names
    for kind, (labels, names) in kinds.items():
        report[kind] = {
            name: {"images": count, "bits_per_dim": mean, "standard_error": own}
            for name, (count, mean, own) in by_class(found.per_image, labels, names).items()
        }
    return report


def _with_error(entry: dict[str, Any]) -> str:
    return bpd_text(entry["bits_per_dim"], entry["standard_error"])


def _lines(report: dict[str, Any]) -> list[str]:
    if "nats_per_dim" in report:
        of = f"of the density of {counted(report['images'], 'example')}"
        lines = [f"{_with_error(report)} bits/dim, {report['nats_per_dim']:.4f} nats/dim, {of}"]
    else:
        draw = "noise draw" if report["noise"] == "uniform" else f"{report['noise']} noise draw"
        lines = [
            f"{_with_error(report)} bits/dim "
            f"({counted(report['images'], 'image')}, {counted(report['draws'], draw)} each; "
            "an upper bound in expectation)"
        ]
    if "importance_weighted" in report:
        lines.append(f"{_with_error(report['importance_weighted'])} bits/dim, importance-weighted")
    for title, terms in (("It is the sum of", report["terms"]), ("By part", report["parts"])):
        lines += [title, *(f"  {value:8.4f}  {name}" for name, value in terms.items())] if terms else []
    for kind, title in (("sizes", "By size"), ("classes", "By class")):
        lines += [title] if kind in report else []
        lines += [
            f"    {_with_error(own)}  {name} ({counted(own['images'], 'image')})"
            for name, own in report.get(kind, {}).items()
        ]
    return lines
