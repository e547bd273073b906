import math

import pytest

from glow_tf import Flow
from glow_tf.architectures import design_of, partition
from glow_tf.architectures.glow import read_cuts
from glow_tf.config import ModelConfig

COUNTS = {
    "1": (96,),
    "96": (96,),
    "by_block:1": (96,),
    "by_block:2": (32, 64),
    "by_block:3": (32, 32, 32),
    "across_block:2": (16, 80),
    "across_block:3": (16, 32, 48),
    "across_block:4": (16, 32, 32, 16),
    "16,32,48": (16, 32, 48),
    "1,95": (1, 95),
}


@pytest.mark.parametrize(("parts", "counts"), COUNTS.items())
def test_every_notation_of_parts(parts, counts):
    assert read_cuts(parts, 3, 32) == counts


def test_an_odd_block_is_cut_after_the_smaller_half():
    assert read_cuts("across_block:3", 3, 5) == (2, 5, 8)


INVALID = {
    "5,5": "add up to num_blocks × flow_steps = 3 × 32 = 96",
    "0,96": "parts must be 1, by_block:N",
    "by_block:4": "N from 1 to 3",
    "across_block:5": "N from 1 to 4",
    "across_block:x": "N from 1 to 4",
    "across_block": "parts must be 1, by_block:N",
    "half": "parts must be 1, by_block:N",
    "": "parts must be 1, by_block:N",
}


@pytest.mark.parametrize(("parts", "match"), INVALID.items())
def test_invalid_parts_are_named(parts, match):
    with pytest.raises(ValueError, match=rf"{match}.*Received: parts="):
        read_cuts(parts, 3, 32)


def test_single_step_blocks_cannot_be_cut_across():
    with pytest.raises(ValueError, match="flow_steps of 2 or more"):
        read_cuts("across_block:2", 3, 1)
    assert read_cuts("across_block:1", 3, 1) == (3,)  # cuts nothing


def _layouts(parts, flow_steps=32, width=512, **kwargs):
    return design_of(ModelConfig(parts=parts, flow_steps=flow_steps, width=width, **kwargs)).layouts


def test_forward_cost_of_the_papers_model():
    layout = _layouts("1")[0]
    assert layout.forward_macs == pytest.approx(4.01e9, rel=2e-3)
    blocks = [sum(e.macs for e in layout.elements if e.block == b) / layout.forward_macs for b in (1, 2, 3)]
    assert blocks == pytest.approx([0.705, 0.219, 0.076], abs=1e-3)


# 60 alternating and 30 end-to-end epochs, relative to 90 end to end.
TABLE_1 = {"by_block:2": 0.745, "across_block:2": 0.706, "across_block:3": 0.642}


@pytest.mark.parametrize(("parts", "predicted"), TABLE_1.items())
def test_predicted_time_of_the_papers_rows(parts, predicted):
    layouts = _layouts(parts)
    alternating = sum(partition.relative_cost(layouts, [k]) for k in range(len(layouts))) / len(layouts)
    assert (60 * alternating + 30) / 90 == pytest.approx(predicted, abs=1e-3)


def test_squeezes_and_splits_stay_with_the_steps_they_belong_to():
    first, second, third = _layouts("by_block:3", flow_steps=2)
    assert [e.kind for e in first.elements] == ["squeeze", "flow_step", "flow_step", "split"]
    assert [e.kind for e in second.elements] == ["squeeze", "flow_step", "flow_step", "split"]
    assert [e.kind for e in third.elements] == ["squeeze", "flow_step", "flow_step"]
    assert [p.output_shape for p in (first, second, third)] == [(16, 16, 6), (8, 8, 12), (4, 4, 48)]
    assert _layouts("across_block:2", flow_steps=2)[0].output_shape == (16, 16, 12)


GIVEN = {"num_blocks": 2, "flow_steps": 1, "width": 32, "condition_features": 16}


def test_what_is_given_costs_what_a_count_by_hand_says():
    (layout,) = design_of(ModelConfig((8, 8, 2), condition_shape=(8, 8, 3), **GIVEN)).layouts
    reading = 16 * 32
    first = 16 * (9 * 4 * 32 + reading + 32 * 32 + 9 * 32 * 2 * 4 + 8 * 8)  # 4×4×8, by halves of 4 channels
    split = 16 * 9 * (4 + 16) * 2 * 4
    second = 4 * (9 * 8 * 32 + reading + 32 * 32 + 9 * 32 * 2 * 8 + 16 * 16)  # 2×2×16, by halves of 8
    assert [e.macs for e in layout.elements if e.macs] == [first, split, second]
    network = 64 * (9 * 3 * 16 + 3 * 9 * 16 * 16)
    base = 4 * 9 * 16 * 2 * 16
    assert [e.macs for e in layout.given] == [network, base]
    assert layout.forward_macs == first + split + second + network + base
    (plain,) = design_of(ModelConfig((8, 8, 2), **GIVEN)).layouts
    reads = (16 + 4) * reading + 16 * 9 * 16 * 2 * 4
    assert layout.forward_macs - plain.forward_macs == reads + network + base


KERNELS = {
    "a map": {"condition_shape": (8, 8, 3)},
    "a vector, in parts": {"condition_shape": (5,), "parts": "1,1"},
    "a map and a vector as they are": {
        "condition_shape": {"a": (4, 4, 1), "b": (5,)},
        "condition_features": 0,
    },
    "levels": {"condition_shape": (8, 8, 3), "architecture": "levels"},
    "nothing": {},
}


@pytest.mark.parametrize("own", KERNELS.values(), ids=KERNELS)
def test_the_cost_model_knows_every_kernel(own):
    config = ModelConfig((8, 8, 2), **{**GIVEN, **own})
    layouts = design_of(config).layouts
    kernels = [w for w in Flow(config).weights if w.path.endswith(("kernel", "reading"))]
    of_mixing = sum(e.channels**2 for p in layouts for e in p.elements if e.kind == "flow_step")
    numbers = sum(math.prod(w.shape) for w in kernels) + of_mixing
    assert design_of(config).model_bytes == 4 * numbers


def test_sizes_that_do_not_divide_name_the_nearest_that_do():
    three, four = (design_of(ModelConfig(num_blocks=blocks)) for blocks in (3, 4))
    with pytest.raises(ValueError, match=r"halves .* 3 times.*24, 32 .*--image_size.*image of 28×28"):
        four.check_size((28, 28, 1))
    with pytest.raises(ValueError, match=r"28, 32 \(--image_size resizes\), or --num_blocks=2\. Received"):
        three.check_size((30, 30, 1))
    levels = design_of(ModelConfig(architecture="levels", num_blocks=3))
    levels.check_size((27, 28, 1))
    with pytest.raises(ValueError, match=r"must be 8 or more with num_blocks=3.*Received: image of 7×28"):
        levels.check_size((7, 28, 1))


ODD_SIZES = {
    (7, 7, 5): (1, ["flow_step"], (7, 7, 5)),
    (28, 28, 1): (
        3,
        ["squeeze", "flow_step", "split", "squeeze", "flow_step", "split", "flow_step"],
        (7, 7, 4),
    ),
    (1, 1, 5): (3, ["flow_step", "split", "flow_step", "flow_step"], (1, 1, 2)),
}


@pytest.mark.parametrize(("shape", "expected"), ODD_SIZES.items())
def test_a_block_of_an_odd_side_does_not_squeeze(shape, expected):
    num_blocks, kinds, output = expected
    (layout,) = design_of(ModelConfig(shape, num_blocks=num_blocks, flow_steps=1, width=4)).layouts
    assert [element.kind for element in layout.elements] == kinds
    assert layout.output_shape == output
