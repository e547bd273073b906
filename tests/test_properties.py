"""What holds for every flow, every cut, every schedule and every text, on examples that Hypothesis finds."""

import collections
import itertools

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from glow_tf.architectures import design_of
from glow_tf.architectures.glow import read_cuts
from glow_tf.architectures.partition import relative_cost
from glow_tf.architectures.schedule import (
    cached_parts,
    end_to_end,
    epoch_costs,
    epochs_training,
    phases,
    turn_starts,
)
from glow_tf.commands import train as train_command
from glow_tf.config import SCHEDULES, DataConfig, ModelConfig, all_settings, read_local_prior, read_scale
from glow_tf.core.errors import ConfigError

# The same examples in every run, and none kept on disk: a failure must not depend on what ran before.
settings.register_profile(
    "glow_tf",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("glow_tf")

WORDS = ("flow", "by_block", "across_block", "tanh", "sigmoid", "learned", "folder", "nan", "inf")
# Texts near those that have a meaning: words, numbers and signs of the notations in any order.
NEAR = st.lists(
    st.one_of(
        st.sampled_from([*WORDS, ":", "x", ",", "@", ".", "-", "e", "²", " ", ""]),
        st.integers(-2, 10**6).map(str),
        st.floats().map(str),
    ),
    max_size=8,
).map("".join)
TEXTS = st.one_of(NEAR, st.text(max_size=40))
NAMES = sorted(setting.name for setting in all_settings())
READERS = {
    "parts": lambda text: read_cuts(text, 3, 4),
    "local_prior": read_local_prior,
    "scale": read_scale,
}


def refusal_of(deed):
    """What a deed is refused with; empty if it is not refused. Any other error fails the test."""
    try:
        deed()
    except ConfigError as error:
        return str(error)
    return ""


def is_fine_or_names(names, deed):
    refusal = refusal_of(deed)
    return not refusal or any(name in refusal for name in names)


@st.composite
def models(draw):
    """The settings of a flow, cut anywhere."""
    blocks, steps = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    total = blocks * steps
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=4)) if total > 1 else set()
    places = [0, *sorted(cuts), total]
    return {
        "image_shape": (2**blocks * draw(st.integers(1, 3)), 2**blocks, draw(st.integers(1, 3))),
        "num_blocks": blocks,
        "flow_steps": steps,
        "width": draw(st.integers(1, 64)),
        "parts": ",".join(str(b - a) for a, b in itertools.pairwise(places)),
    }


def elements(layouts):
    return [element for layout in layouts for element in layout.elements]


# Parts


@given(models())
def test_parts_hold_the_flow_in_order_wherever_it_is_cut(model):
    whole = design_of(ModelConfig(**model | {"parts": "1"})).layouts
    assert elements(design_of(ModelConfig(**model)).layouts) == elements(whole)


@given(models())
def test_every_part_has_the_flow_steps_that_the_notation_gives_it(model):
    counts = [layout.flow_steps for layout in design_of(ModelConfig(**model)).layouts]
    assert counts == list(map(int, model["parts"].split(",")))


@given(models(), st.integers(1, 64), st.integers(1, 8))
def test_a_head_has_at_most_its_flow_steps_in_each_block_and_leaves_the_part_as_it_is(model, width, steps):
    plain = design_of(ModelConfig(**model)).layouts
    layouts = design_of(ModelConfig(**model | {"local_prior": f"flow:{width}x{steps}"})).layouts
    assert elements(layouts) == elements(plain)
    assert not layouts[-1].head  # the last part has the top base
    assert [layout.output_bytes for layout in layouts] == [layout.output_bytes for layout in plain]
    for k, layout in enumerate(layouts[:-1]):
        rest, own = (
            collections.Counter(e.block for e in some if e.kind == "flow_step")
            for some in (elements(layouts[k + 1 :]), layout.head)
        )
        assert own == {block: min(steps, count) for block, count in rest.items()}


@given(models(), st.data())
def test_the_cost_of_phases(model, data):
    layouts = design_of(ModelConfig(**model)).layouts
    parts = range(len(layouts))
    costs = [relative_cost(layouts, [k]) for k in parts]
    assert relative_cost(layouts, list(parts)) == pytest.approx(1.0)  # simultaneous
    assert relative_cost(layouts, list(parts), scored=[max(parts)]) == 1.0
    assert all(0 < cost <= 1 + 1e-9 for cost in costs)
    cached = [relative_cost(layouts, [k], first=k) for k in parts]
    assert sum(cached) == pytest.approx(1.0)


# Schedules


@given(
    st.sampled_from(SCHEDULES), st.integers(1, 6), st.integers(0, 40), st.integers(0, 10), st.integers(1, 9)
)
def test_a_schedule_has_its_epochs_and_shares_them_fairly(schedule, parts, part_epochs, finetune, period):
    found = phases(schedule, parts, part_epochs, finetune, period)
    assert len(found) == part_epochs + finetune
    assert found[part_epochs:] == (end_to_end(parts),) * finetune
    trained = [epochs_training(k, found[:part_epochs]) for k in range(parts)]
    if schedule in ("end_to_end", "simultaneous"):
        assert trained == [part_epochs] * parts
    else:
        assert sum(trained) == part_epochs
        assert max(trained) - min(trained) <= (1 if schedule == "sequential" else period)
    if schedule == "sequential":
        assert list(found[:part_epochs]) == sorted(found[:part_epochs], key=lambda phase: phase.active)


@given(st.sampled_from(SCHEDULES), st.integers(1, 5), st.integers(1, 30), st.integers(1, 9))
def test_a_turn_is_one_phase_and_a_cache_serves_later_parts_alone(schedule, parts, epochs, period):
    found = phases(schedule, parts, epochs, 2, period)
    for epoch, start in enumerate(turn_starts(found)):
        assert set(found[start : epoch + 1]) == {found[epoch]}
        assert start == 0 or found[start - 1] != found[start]
    served = {phase.active[0] for phase in found if phase.kind == "part"} - {0}
    assert set(cached_parts(found)) <= served


@given(models(), st.integers(1, 12))
def test_a_cache_never_makes_an_epoch_dearer(model, epochs):
    layouts = design_of(ModelConfig(**model)).layouts
    found = phases("sequential", len(layouts), epochs * len(layouts))
    plain, cached = epoch_costs(layouts, found), epoch_costs(layouts, found, cache_prefix=True)
    assert all(b <= a for a, b in zip(plain, cached, strict=True))


# Texts


@pytest.mark.parametrize("notation", READERS)
@given(text=TEXTS)
@example(text="flow:8x2")
@example(text="tanh:1")
def test_a_notation_is_read_or_refused_with_what_was_received(notation, text):
    assert is_fine_or_names(["Received"], lambda: READERS[notation](text))


@given(st.sampled_from(NAMES), TEXTS)
def test_any_value_of_any_flag_is_taken_or_refused_with_what_was_received(name, text):
    assume(name not in ("init_from", "workdir", "data_dir"))  # any text may be a path
    assert is_fine_or_names(["Received", name], lambda: train_command.config_of([f"--{name}={text}"]))


@given(TEXTS)
def test_any_name_of_a_data_set_is_taken_or_refused_with_what_was_received(text):
    assert is_fine_or_names(["Received"], lambda: DataConfig(dataset=text))
