"""What a preset's README.md says: a model card. Pure Python: no TensorFlow."""

import json
from collections.abc import Mapping
from typing import Any

from glow_tf.config import ModelConfig

TASK = "unconditional-image-generation"


def card_of(name: str, model: ModelConfig, about: Mapping[str, Any], weights_dtype: str) -> str:
    """Returns the text of README.md: what `about` says, below the metadata that the Hugging Face Hub reads.

    The preset is loaded by `name`, and keeps its weights as `weights_dtype`; see `glow_tf.presets.write`.
    """
    height, width, channels = model.image_shape
    of = "of real numbers" if model.is_real else f"with {model.n_bits} bits"
    title = about.get("title", name.rpartition("/")[2])
    lines = [*_metadata(title, about), f"# {title}", ""]
    kind, steps = model.design.describe(model)
    widths = ", ".join(map(str, sorted(set(model.widths), reverse=True)))
    any_size = str(about.get("image_size")) == "0"
    size = f"any size, with {channels} channels," if any_size else f"{height}×{width}×{channels}"
    shape = f", image_shape=(64, 64, {channels})" if any_size else ""
    lines += [
        f"{kind} for images of {size} {of}: {steps} flow steps, width {widths}. "
        f"Weights are kept as {weights_dtype}.",
        "",
        *_code(name, model, shape),
        "",
    ]
    if "test_bpd" in about:
        error = f" ± {about['test_bpd_se']:.3f}" if "test_bpd_se" in about else ""
        lines.append(
            f"- Score: {about['test_bpd']:.4f}{error} bits/dim on {about.get('test_examples', 'the')} test "
            "images (the error is over images; one noise draw each), with the weights as they are here."
        )
    texts = {"licence": "Licence of the data"}
    for key in ("data", "command", "seed", "epochs", "limits", "licence"):
        if key in about:
            value = f"`{about[key]}`" if key == "command" else about[key]
            lines.append(f"- {texts.get(key, key.capitalize())}: {value}")
    return "\n".join(lines) + "\n"


def _code(name: str, model: ModelConfig, shape: str) -> list[str]:
    """Returns lines of Python that draw images and score them."""
    given = ", condition=…" if model.condition_shapes else ""  # arrays of what each image is given
    return [
        "```python",
        "import glow_tf",
        "",
        f'glow = glow_tf.Glow.from_preset("{name}"{shape})',
        f"images = glow.sample(16, temperature=0.7, seed=0{given})",
        f"print(glow.bits_per_dim(images{given}))",
        "```",
    ]


def _metadata(title: str, about: Mapping[str, Any]) -> list[str]:
    """Returns the YAML at the top of a card; its values are written as JSON, which YAML reads."""
    content: dict[str, Any] = {
        "library_name": "glow_tf",
        "pipeline_tag": TASK,
        "tags": ["normalizing-flow", "density-estimation", "keras"],
    }
    if "test_bpd" in about:
        data = about.get("data", "unknown")
        result = {
            "task": {"type": TASK},
            "dataset": {"name": data, "type": data.partition(",")[0]},
            "metrics": [{"name": "test bits/dim", "type": "bits_per_dim", "value": about["test_bpd"]}],
        }
        content["model-index"] = [{"name": title, "results": [result]}]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in content.items()), "---", ""]
