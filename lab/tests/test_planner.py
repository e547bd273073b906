"""The planner's arithmetic, and what it says of mistakes."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from absl import flags
from small import ROOT, small_config

from glow_tf import Glow, ModelConfig
from glow_tf.commands import cli
from glow_tf.commands.parsing import parse
from glow_tf.commands.run_flags import config_of
from glow_tf.core.errors import ConfigError
from glow_tf.layout.cost import relative_cost
from glow_tf.layout.partition import part_layouts
from glow_tf.layout.schedule import end_to_end, one_part, simultaneous
from lab import CONFIGS, plan
from lab.planning.cluster_file import Cluster, Device, read_cluster_file
from lab.planning.forecast import COMPARED, Candidate, candidates, forecast_table, recommendations
from lab.planning.planner import PLANNED_STRATEGIES, Forecast, Planner
from lab.planning.rates import Calibration, rates_settings, read_calibration

MODEL = ModelConfig((32, 32, 3), 8, 3, 8, 128, parts="across_block:3")
LAYOUTS = part_layouts(MODEL)
WITH_HEADS = part_layouts(dataclasses.replace(MODEL, local_prior="flow:32x2"))
LEVELS = part_layouts(dataclasses.replace(MODEL, architecture="levels", num_blocks=2, parts="1"))
PART_2, ALL = one_part(1), simultaneous(3)


def planner(devices=3, bandwidth=math.inf, latency=0.0, loss=0.0, **changes):
    device = Device("d", 1.0, 1e12, 1e12)
    cluster = Cluster("c", (device,) * devices, bandwidth, latency, loss)
    return Planner(cluster, **{"batch_size": 32, **changes})


@pytest.mark.parametrize("layouts", [LAYOUTS, WITH_HEADS, LEVELS], ids=["Gaussians", "heads", "levels"])
def test_on_one_device_a_phase_costs_what_the_cost_model_says(layouts):
    for reversible, flops in ((False, 6), (True, 8)):
        own = planner(reversible=reversible)
        whole = own.step(layouts, end_to_end(3), "one_device").seconds
        assert whole == pytest.approx(32 * flops * sum(p.forward_macs for p in layouts) / 1e12)
        for phase in (PART_2, ALL):
            ratio = own.step(layouts, phase, "one_device").seconds / whole
            assert ratio == pytest.approx(relative_cost(layouts, phase.active, reversible=reversible))


@pytest.mark.parametrize("strategy", PLANNED_STRATEGIES)
def test_heads_take_time_and_memory_where_they_are_trained_and_send_nothing(strategy):
    plain, heads = (planner().step(own, ALL, strategy) for own in (LAYOUTS, WITH_HEADS))
    assert heads.seconds > plain.seconds
    assert heads.memory > plain.memory
    if strategy != "mirrored":  # which sums the gradients of heads, too
        assert heads.sent == plain.sent
    assert planner().step(WITH_HEADS, end_to_end(3), strategy).seconds == pytest.approx(
        planner().step(LAYOUTS, end_to_end(3), strategy).seconds
    )


def test_replicas_share_the_work_and_reduce_the_gradients_they_trained():
    alone = planner().step(LAYOUTS, PART_2, "one_device")
    step = planner(bandwidth=1e6, latency=0.01).step(LAYOUTS, PART_2, "mirrored")
    gradients = step.sent / 4
    assert step.seconds == pytest.approx(alone.seconds / 3 + 4 * (0.01 + gradients / 3 / 1e6))
    assert step.limit == "all-reduce"
    assert step.memory < alone.memory


def test_parts_that_work_at_the_same_time_take_as_long_as_the_slowest_or_the_link():
    def costs(k):
        return 32 * 6 * LAYOUTS[k].forward_macs / 1e12

    fast = planner().step(LAYOUTS, ALL, "part_parallel, delayed")
    assert fast.seconds == pytest.approx(max(costs(k) for k in range(3)))
    waiting = planner().step(LAYOUTS, ALL, "part_parallel")
    starts = [0.0, costs(0) / 3, (costs(0) + costs(1)) / 3]
    assert waiting.seconds == pytest.approx(max(start + costs(k) for k, start in enumerate(starts)))
    slow = planner(bandwidth=1e5).step(LAYOUTS, ALL, "part_parallel, delayed")
    assert slow.limit == "link"
    assert slow.seconds == pytest.approx(costs(0) / 3 + 32 * LAYOUTS[0].output_bytes / 1e5)
    assert slow.sent == 32 * sum(p.output_bytes for p in LAYOUTS[:2])


def test_end_to_end_epochs_pass_the_link_twice():
    near = planner().step(LAYOUTS, end_to_end(3), "part_parallel")
    far = planner(latency=0.5).step(LAYOUTS, end_to_end(3), "part_parallel")
    assert far.seconds == pytest.approx(near.seconds + 4 * 0.5)
    assert far.sent == 2 * planner().step(LAYOUTS, ALL, "part_parallel").sent


def test_parts_need_a_device_each():
    assert planner(devices=2).step(LAYOUTS, ALL, "part_parallel") is None
    assert planner().step(LAYOUTS[:1], end_to_end(1), "part_parallel") is None


def test_lost_packets_slow_a_long_link_down():
    link = planner(bandwidth=1e8, latency=0.02, loss=1e-4).cluster
    assert link.rate == pytest.approx(1.22 * 1460 / (0.04 * 0.01))
    assert dataclasses.replace(link, latency=1e-6).rate == 1e8


def test_recomputing_takes_more_time_and_less_memory():
    kept = planner().step(LAYOUTS, end_to_end(3), "one_device")
    recomputed = planner(reversible=True).step(LAYOUTS, end_to_end(3), "one_device")
    assert recomputed.seconds == pytest.approx(kept.seconds * 4 / 3)
    assert recomputed.memory < kept.memory / 2


def test_the_memory_of_the_weights_is_that_of_the_model():
    config = small_config(width=64, flow_steps=3, num_blocks=1, parts="1")
    glow = Glow(config, name="glow")
    count = sum(math.prod(v.shape) for v in glow.trainable_variables)
    nothing = planner(batch_size=1e-12).step(part_layouts(config), end_to_end(1), "one_device")
    assert nothing.memory == pytest.approx(4 * 4 * count, rel=0.1)


def test_a_calibrated_device_takes_what_was_measured():
    rates = Calibration("m", {1: 1.0, 2: 0.5, 3: 0.25}, {1: 3.5, 2: 1.5, 3: 1.0}, 2.0)
    assert Calibration.from_json(rates.to_json()) == rates
    cluster = Cluster("c", (Device("d", 2.0, 0.0, 1e12),), 1.0, 0.0)
    part_2 = Planner(cluster, 1, rates).step(LAYOUTS, PART_2, "one_device")
    assert part_2.seconds == pytest.approx((2 + 4 * 1.0 + 4 * 3.5 + 4 * 1.5) / 2)
    with pytest.raises(ConfigError, match=r"need a calibration .* Received: d"):
        Planner(cluster, 1)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("mbit = 100", "", "must have 'mbit'"),
        ("speed = 1", "speed = 1\ngflops = 2", "either gflops or speed"),
        ("speed = 1", "speed = -1", "must be positive"),
        ("[device a]", "[machine a]", "must be cluster and device NAME"),
        ("memory_gb = 2", "memory = 2", r"not \['memory'\]"),
        ("count = 2", "count = two", r"\[device a\] must have a number as count, not 'two'"),
        ("count = 2", "count = 1.5", "count from 1 to 10000, not 1.5"),
        ("mbit = 100", "mbit = fast", r"\[cluster\] must have a number as mbit, not 'fast'"),
        ("speed = 1", "gflops = 0", "must have positive gflops"),
        ("mbit = 100", "mbit = 100\nlatency_ms = -5", "must not be negative"),
        ("mbit = 100", "mbit = 100\nloss = 0.01", "must be positive where packets are lost"),
        ("count = 2", "count = 1000000000", "count from 1 to 10000"),
        ("[device a]", "[DEFAULT]", "must be cluster and device NAME"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_named(tmp_path, before, after, message):
    text = "[cluster]\nmbit = 100\n[device a]\ncount = 2\nspeed = 1\nmemory_gb = 2\n"
    path = tmp_path / "cluster.cfg"
    path.write_text(text)
    assert len(read_cluster_file(path).devices) == 2
    path.write_text(text.replace(before, after))
    with pytest.raises(ConfigError, match=rf"{message}.* Received: cluster=.*, line \d$"):
        read_cluster_file(path)


CALIBRATION_FLAGS = (
    "--image_shape=8,8,1",
    "--num_blocks=1",
    "--flow_steps=2",
    "--width=8",
    "--batch_size=8",
    "--workdir=unused",
)


def forecast(*arguments):
    command = [sys.executable, "-m", "lab.plan", "--workdir=unused", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["eight_v100", "eight_h100", "eight_home"])
def test_the_papers_size_is_planned_for_every_cluster(name):
    cluster = read_cluster_file(CONFIGS / "clusters" / f"{name}.cfg")
    found = candidates(config_of(["--flagfile=paper_5"]), cluster)
    assert [c.hours for c in found] == sorted(c.hours for c in found)
    assert {c.strategy for c in found} == set(PLANNED_STRATEGIES)
    assert {c.schedule for c in found} == set(COMPARED)
    for line, schedule in zip(recommendations(found, cluster), COMPARED, strict=True):
        assert line.startswith(f"{schedule}: --schedule={schedule} --strategy=")


def test_a_batch_that_cannot_be_shared_is_not_planned_for_replicas():
    cluster = read_cluster_file(CONFIGS / "clusters" / "eight_home.cfg")
    config = config_of(["--flagfile=paper_5"])
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=12))
    assert {c.strategy for c in candidates(config, cluster)} == set(PLANNED_STRATEGIES) - {"mirrored"}


def test_the_command_prints_a_table_and_recommendations():
    result = forecast("--flagfile=paper_5", "--cluster=eight_home")
    assert result.returncode == 0, result.stderr
    assert "GB per device" in result.stdout
    assert "alternating: --schedule=alternating --strategy=" in result.stdout


def test_a_calibration_is_measured_and_used(tmp_path, capsys):
    flags = [*CALIBRATION_FLAGS, f"--calibration={tmp_path / 'machine.json'}"]
    delayed = ("--strategy=part_parallel", "--schedule=simultaneous", "--part_delay=1", "--parts=1,1")
    result = forecast(*flags, *delayed, "--calibrate")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "machine.json").read_text())["both"]["1"] > 0
    (tmp_path / "here.cfg").write_text(
        "[cluster]\nmbit = 100\n[device core]\ncount = 2\nspeed = 1\nmemory_gb = 8\n"
    )
    assert cli.run_module(plan, [*flags, f"--cluster={tmp_path / 'here.cfg'}", "--parts=1,1"]) == 0
    assert "part_parallel" in capsys.readouterr().out


def test_another_file_is_no_calibration(tmp_path):
    path = tmp_path / "other.json"
    large = '{"forward": {}, "both": {}, "rest": 1' + 400 * "0" + "}"
    for text in ("", "[1]", "{}", '{"forward": {}, "both": {}}', large):
        path.write_text(text)
        with pytest.raises(ConfigError, match="calibration must be a file that"):
            read_calibration(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image_shape=8,x,1"], "image_shape must be height, width and channels. Received: '8,x,1'"),
        (["--calibrate"], "--calibrate needs --calibration, a file to write"),
        (["--cluster=none"], "cluster must be a file, or the name of a config that comes with glow_tf"),
    ],
)
def test_mistakes_in_flags_are_named(flags, message, capsys):
    assert cli.run_module(plan, ["--workdir=unused", *flags]) == 1
    assert message in capsys.readouterr().err


def test_each_device_must_hold_its_own_part_alone():
    config = config_of(["--flagfile=paper_2", "--workdir=unused", "--parts=by_block:2"])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, image_shape=(32, 32, 3)))
    device = Device("d", 1.0, 1e12, 1e12)
    whole = Cluster("c", (device, device), math.inf, 0.0, 0.0)
    (own,) = [
        c
        for c in candidates(config, whole)
        if (c.strategy, c.schedule, c.parts) == ("part_parallel", "alternating", "by_block:2")
    ]
    larger, smaller = (max(step.held[k] for step in own.steps) for k in (0, 1))
    assert larger > 1.5 * smaller
    for sizes, fits in (
        ((larger, smaller), True),
        ((larger, 0.9 * smaller), False),
        ((smaller, larger), False),
    ):
        devices = tuple(dataclasses.replace(device, memory=size) for size in sizes)
        assert own.fits(dataclasses.replace(whole, devices=devices)) is fits


def test_schedules_that_need_parts_say_so_where_there_is_one():
    config = config_of(["--flagfile=quickstart", "--workdir=unused", "--parts=1"])
    one = Cluster("c", (Device("d", 1.0, 1e12, 1e15),), math.inf, 0.0)
    end_to_end, *others = recommendations(candidates(config, one), one)
    assert end_to_end == "end_to_end: --schedule=end_to_end --strategy=one_device --parts=1"
    assert [line.split(": ")[1] for line in others] == [
        "needs several parts; --parts=across_block:2 makes two"
    ] * 2


def test_a_plan_is_of_the_images_that_are_asked_for():
    def shape(*arguments):
        values = flags.FlagValues()
        plan.define(values)
        parse(values, ["--flagfile=quickstart", *arguments])
        return plan._config(values).model.image_shape

    assert shape() == (32, 32, 3)
    assert shape("--image_size=64") == (64, 64, 3)
    assert shape("--from_preset=digits") == (8, 8, 1)
    assert shape("--from_preset=digits", "--image_shape=28,28,1") == (28, 28, 1)


def test_a_plan_of_a_tiny_model_shows_digits_of_every_number():
    step = Forecast(1e-5, (12_345.0,), 6_789.0, "compute")
    found = Candidate("one_device", "end_to_end", "1", (1,), 2.5e-6, (step,))
    cluster = Cluster("c", (Device("d", 1.0, 1e12, 1e15),), math.inf, 0.0)
    numbers = [word for word in forecast_table([found], cluster).split() if word.startswith("0.")]
    assert numbers == ["0.0000025", "0.010", "0.000012", "0.0068"]
    large = dataclasses.replace(found, hours=12.345, steps=(Forecast(0.2, (2e9,), 0.0, "compute"),))
    assert forecast_table([large], cluster).split()[-5:] == ["12.35", "200", "compute", "2.00", "0.00"]


def test_an_error_in_a_cluster_file_that_is_none_names_the_file(tmp_path):
    path = tmp_path / "cluster.cfg"
    path.write_text("mbit = 100")
    with pytest.raises(ConfigError, match=rf"no section headers\. file: '{path}', line: 1"):
        read_cluster_file(path)


def test_rates_of_another_model_are_refused(tmp_path):
    config = config_of(["--flagfile=quickstart", "--workdir=unused"])
    model = dataclasses.replace(config.model, image_shape=(32, 32, 3))
    rates = Calibration("m", {1: 1e-3}, {1: 3e-3}, 1e-3, rates_settings(model))
    (tmp_path / "machine.json").write_text(rates.to_json())
    read = read_calibration(tmp_path / "machine.json")
    assert read == rates
    read.check(dataclasses.replace(model, flow_steps=3))
    with pytest.raises(ConfigError, match="Received: rates of width=128, and a model of width=64"):
        read.check(dataclasses.replace(model, width=64))
    Calibration("m", {1: 1e-3}, {1: 3e-3}, 1e-3).check(model)  # an earlier release did not say of what
