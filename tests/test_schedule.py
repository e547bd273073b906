import pytest

from glow_tf.architectures import schedule


def names(*args, **kwargs):
    return [str(phase) for phase in schedule.phases(*args, **kwargs)]


def test_alternating_takes_turns_then_trains_end_to_end():
    assert names("alternating", 3, 4, 2) == [
        "part 1",
        "part 2",
        "part 3",
        "part 1",
        "end to end",
        "end to end",
    ]


def test_alternating_keeps_a_turn_for_a_period():
    assert names("alternating", 2, 5, period=2) == ["part 1", "part 1", "part 2", "part 2", "part 1"]


def test_sequential_gives_the_remainder_to_the_first_parts():
    assert names("sequential", 3, 5) == ["part 1", "part 1", "part 2", "part 2", "part 3"]


def test_simultaneous_trains_all_parts_apart():
    first, last = schedule.phases("simultaneous", 2, 1, 1)
    assert (first.kind, first.active, first.end_to_end) == ("simultaneous", (0, 1), False)
    assert last.end_to_end


def test_end_to_end_is_end_to_end_throughout():
    assert names("end_to_end", 2, 2, 1) == ["end to end"] * 3


def test_names_in_history():
    phase = schedule.phases("alternating", 2, 2)[1]
    assert (phase.kind, phase.active_parts, phase.last) == ("part", "2", 1)
    assert schedule.end_to_end(3).active_parts == "1 2 3"


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"schedule must be one of.*Received: schedule='random'"):
        schedule.phases("random", 2, 2)


@pytest.mark.parametrize(("kind", "active"), [("simultanous", (0, 1)), ("part", (0, 1)), ("part", ())])
def test_a_phase_that_cannot_be_is_refused(kind, active):
    with pytest.raises(ValueError, match=rf"a phase must be one of .* Received: kind='{kind}'"):
        schedule.Phase(active, kind=kind)


@pytest.mark.parametrize("wrong", ["part", 1, (-1,), (0.5,), ((0,),)])
def test_a_phase_of_what_are_no_parts_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a phase is Phase\(active, crossed\): .* Received: active="):
        schedule.Phase(wrong)


MIXED = {  # active, crossed → groups, the last part that runs, what a run would print
    ((0, 1), (1,)): (((0, 1),), 1, "parts 1+2"),
    ((0, 2), ()): (((0,), (2,)), 2, "parts 1, 3"),
    ((1, 2), (2,)): (((1, 2),), 2, "parts 2+3"),
    ((0,), (1, 2)): (((0, 1, 2),), 2, "parts 1+2+3"),
    ((0, 1, 3), (1, 3)): (((0, 1), (3,)), 3, "parts 1+2, 4"),
}


@pytest.mark.parametrize(("active", "crossed"), MIXED)
def test_any_parts_and_cuts_are_a_phase(active, crossed):
    phase = schedule.Phase(active, crossed)
    groups, last, name = MIXED[active, crossed]
    assert (phase.groups, phase.last, str(phase), phase.kind) == (groups, last, name, "mixed")
    assert phase.ends == tuple(group[-1] for group in groups)
    assert schedule.Phase.from_config(phase.to_config()) == phase


def test_phases_are_saved_as_earlier_releases_saved_them():
    found = [schedule.one_part(1), schedule.simultaneous(2), schedule.end_to_end(2), schedule.end_to_end(1)]
    configs = [["part", [1]], ["simultaneous", [0, 1]], ["end_to_end", [0, 1]], ["end_to_end", [0]]]
    assert [phase.to_config() for phase in found] == configs
    assert [schedule.Phase.from_config(config) for config in configs] == found
