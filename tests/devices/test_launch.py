"""Runs of several processes: the same numbers as in one, and what happens when one of them is gone."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import KINDS, config, flags, launch, rows_of, train, workdir_rows
from PIL import Image
from sklearn.datasets import load_digits
from small import ROOT, run_main

import glow_tf
from glow_tf.commands.run_flags import config_of
from glow_tf.config import RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.devices import broken, children, liveness, meeting, part_processes, processes, stall, workers
from glow_tf.run import lifecycle
from glow_tf.run.files import checksums

FAST = {
    "schedule": "simultaneous",
    "part_epochs": 3,
    "finetune_epochs": 1,
    "export": False,
    "tensorboard": False,
    "sample_every": 0,
    "validation_examples": 40,
}


def wait_for_rows(folder, count, process):
    deadline = time.monotonic() + 120
    while len(workdir_rows(folder)) < count and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)


def processes_of(folder):
    found = subprocess.run(
        ["pgrep", "-f", f"glow_tf.commands train.*{folder}"], capture_output=True, text=True
    )
    return [int(line) for line in found.stdout.split()]


def environment_of(process):
    with open(f"/proc/{process}/environ") as file:
        return dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)


def process_of(folder, index):
    (found,) = [
        p
        for p in processes_of(folder)
        if json.loads(environment_of(p)["TF_CONFIG"])["task"]["index"] == index
    ]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one process, with nothing that happens to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_main(*flags(folder, **FAST))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("part", {"part_delay": 1}), ("worker", {})],
)
def test_two_processes_end_with_the_numbers_of_one(kind, changes, whole, tmp_path):
    process = launch(kind, *flags(tmp_path / "two", **FAST, **changes))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "retracing" not in output
    for a, b in zip(rows_of(whole), rows_of(tmp_path / "two"), strict=True):
        for name in ("test_bpd", "train_bpd", "local_bpd_1"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-3)
    assert list((tmp_path / "two" / "checkpoints" / "best").glob("*.index"))
    assert processes_of(tmp_path / "two") == []


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Small digits, and the same at half their size."""
    folder = tmp_path_factory.mktemp("pairs")
    for k, image in enumerate((load_digits().images[:160] * 8).astype(np.uint8)):
        for name, own in (("target", image), ("input", image[::2, ::2])):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(own).save(folder / name / f"{k:03d}.png")
    return folder


GLOW = {"condition": "input", "condition_features": 2}
LEVELS = {**GLOW, "architecture": "levels", "num_blocks": 1, "parts": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("part", GLOW), ("part", LEVELS), ("worker", LEVELS)],
    ids=["parts of a Glow", "parts of levels", "workers with levels"],
)
def test_two_processes_train_models_that_are_given_a_map_like_one(kind, changes, pairs, tmp_path):
    own = {**FAST, "part_epochs": 1, "dataset": f"folder:{pairs}", "test_examples": 0, "train_examples": 96}
    own |= {"augment": "none", "validation_examples": 20, "sample_every": 1, **changes}
    run_main(*flags(tmp_path / "one", **own))
    process = launch(kind, *flags(tmp_path / "two", **own))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    for a, b in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        for name in ("test_bpd", "train_bpd"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-3)
    found = glow_tf.load(tmp_path / "two")
    for a, b in zip(glow_tf.load(tmp_path / "one").weights, found.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3, err_msg=a.path)


@contextlib.contextmanager
def speaking():
    """Listens, and speaks first to whoever comes, as TensorFlow does."""

    def speak():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b".")

    with socket.create_server(("localhost", 0)) as listener:
        threading.Thread(target=speak, daemon=True).start()
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # ends the wait for who comes


def test_a_process_that_stands_still_is_silent_though_its_system_takes_connections(monkeypatch):
    monkeypatch.setattr(liveness, "ANSWER_TIME", 0.2)
    with speaking() as there, socket.create_server(("localhost", 0)) as still:
        addresses = [f"localhost:{listener.getsockname()[1]}" for listener in (there, still)]
        assert [liveness.answer_of(address) for address in addresses] == ["yes", "silent"]
        assert liveness.answer_of(addresses[1], speaks=False) == "yes"
    assert liveness.answer_of(addresses[0]) == "refused"


def test_a_wait_is_shown_and_whom_it_is_for(monkeypatch, capfd):
    monkeypatch.setattr(stall, "PATIENCE", 0.1)
    with speaking() as there:
        addresses = ("localhost:1", f"localhost:{there.getsockname()[1]}", "localhost:2")
        run = processes.ProcessGroup("part", addresses, 0)
        shown, deadline = "", time.monotonic() + 20
        with stall.stall_watch(run) as happened:
            happened()
            while shown.count("\n") < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
                shown += capfd.readouterr().out
    first = f"part 2 ({addresses[1]}), which answers; part 3 (localhost:2), which does not answer"
    assert shown.startswith("No step has ended for 0 s: waits for " + first)


STOPPING = """
import importlib, os, signal, sys
from glow_tf import export
from glow_tf.commands.run_flags import config_of
from glow_tf.devices import stall
from glow_tf.run import lifecycle

module, _, name = sys.argv[1].partition(":")
*path, last = name.split(".")
place = importlib.import_module(module)
for part in path:
    place = getattr(place, part)
function, stopped = getattr(place, last), []

def stop_and_go_on(*args, **kwargs):
    if not stopped:
        stopped.append(True)
        os.kill(int(sys.argv[2]), signal.SIGSTOP)
    return function(*args, **kwargs)

setattr(place, last, stop_and_go_on)
stall.PATIENCE = 3.0
lifecycle.train(config_of(sys.argv[3:]), export)
"""

# What process 0 is about to do when the other process is stopped.
MOMENTS = {
    "setting up": "glow_tf.run.context:compiled_trainer",
    "a step": "glow_tf.training.trainer:PartsTrainer.on_step_end",
    "an evaluation": "glow_tf.run.callbacks:EpochRecord._evaluate",
    "a checkpoint": "glow_tf.run.files.checkpoints:Checkpoints.save",
    "the end": "glow_tf.model.glow:Glow.recut",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_part_that_stands_still_is_waited_for_and_named(moment, whole, tmp_path):
    """The first process stops the other one itself, so it does not matter who is faster."""
    message = "Setting up has gone on" if moment == "setting up" else "No step has ended"
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("localhost", 0))
        addresses = [f"localhost:{listener.getsockname()[1]}" for listener in (first, second)]
    settings = flags(tmp_path / "run", **{**FAST, "strategy": "part_parallel", "export": moment == "the end"})

    def start(index, *command):
        task = {"cluster": {"part": addresses}, "task": {"type": "part", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        own = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, **own)

    still = start(1, "train/main.py", *settings)
    run = start(0, "-c", STOPPING, MOMENTS[moment], str(still.pid), *settings)
    timer = threading.Timer(250, run.kill)
    timer.start()
    try:
        said = []
        for line in run.stdout:
            said.append(line)
            if line.startswith(message):
                assert f"part 2 ({addresses[1]}), which does not answer" in line
                os.kill(still.pid, signal.SIGCONT)
        assert run.wait() == 0, "".join(said)
        assert any(line.startswith(message) for line in said), "".join(said)
        os.kill(still.pid, signal.SIGCONT)
        assert still.wait(timeout=30) == 0
    finally:
        timer.cancel()
        for process in (run, still):
            process.kill()
            process.wait()
            process.stdout.close()
    bpd, expected = (float(rows_of(folder)[-1]["test_bpd"]) for folder in (tmp_path / "run", whole))
    assert bpd == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_ends_the_run_which_resumes(kind, index, whole, tmp_path):
    folder = tmp_path / "cut"
    process = launch(kind, *flags(folder, **FAST, checkpoint_minutes=1e-9))  # after every step
    wait_for_rows(folder, 2, process)
    other = process_of(folder, 1 - index)
    os.kill(process_of(folder, index), signal.SIGKILL)
    output, _ = process.communicate(timeout=50)  # less than launch.py leaves the others to notice it
    assert process.returncode == 1
    assert f"Lost the process of {kind} {index + (kind == 'part')} (localhost:" in output
    assert not os.path.exists(f"/proc/{other}")
    assert not (folder / "summary.json").exists()
    if index:
        process = launch(kind, *flags(folder, **FAST))
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    else:  # on one device, for a change
        output = run_main(*flags(folder, **FAST)).stdout
    assert "Resuming after " in output
    for a, b in zip(glow_tf.load(whole).get_weights(), glow_tf.load(folder).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_a_process_that_serves_ends_when_the_first_one_is_gone(tmp_path):
    with socket.socket() as first, socket.socket() as own:
        for listener in (first, own):
            listener.bind(("localhost", 0))
        addresses = [f"localhost:{listener.getsockname()[1]}" for listener in (first, own)]
        own.close()
        first.listen()
        task = {"cluster": {"part": addresses}, "task": {"type": "part", "index": 1}}
        command = [sys.executable, "train/main.py", *flags(tmp_path / "run", strategy="part_parallel")]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": json.dumps(task)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == f"part 2: serves {addresses[0]}\n"
    assert process.wait(timeout=30) == 0
    assert not (tmp_path / "run").exists()


def test_a_part_whose_process_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(liveness, "PATIENCE", 0.5)
    absent = processes.ProcessGroup("part", ("localhost:1", "localhost:2"), 0)
    with pytest.raises(ConfigError, match=r"Received: no answer from part 2 \(localhost:2\)"):
        part_processes.connect(absent)


def test_an_address_that_another_program_has_is_named():
    with socket.create_server(("localhost", 0)) as taken:
        own = f"localhost:{taken.getsockname()[1]}"
        group = processes.ProcessGroup("part", ("localhost:1", own), 1)
        with pytest.raises(ConfigError, match=f"must be able to listen at {own}; another program may. Rec"):
            part_processes.serve(group, 1)


def test_a_worker_with_other_images_is_refused(monkeypatch):
    """Each worker cuts its slice of a batch out of its own copy of the data."""
    sent = []

    def send(strategy, variables):
        sent.extend(variable.numpy() for variable in variables)

    def receive(strategy, variables):
        for variable, value in zip(variables, sent, strict=True):
            variable.assign(value)

    data = {"train images": "36 (checksum 0a)", "test images": "4 (checksum 0b)"}
    monkeypatch.setattr(checksums, "follow_first_worker", send)
    checksums.check_same_on_workers(None, data)
    monkeypatch.setattr(checksums, "follow_first_worker", receive)
    checksums.check_same_on_workers(None, data)
    with pytest.raises(ConfigError, match=r"Received: other test images=5 \(checksum 0b\)$"):
        checksums.check_same_on_workers(None, {**data, "test images": "5 (checksum 0b)"})


def meet(*settings, summary=None, count=None, function=meeting.meet):
    """What each worker hears, with a thread for each that comes."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count or len(settings))]
        for listener in sockets:
            listener.bind(("localhost", 0))
        addresses = tuple(f"localhost:{listener.getsockname()[1]}" for listener in sockets)

    def worker(index):
        try:
            return function(processes.ProcessGroup("worker", addresses, index), settings[index], summary)
        except ConfigError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(worker, reversed(range(len(settings)))))


def test_workers_meet_and_learn_whether_there_is_anything_to_do():
    same = {"seed": 1, "parts": "2,3"}
    assert meet(same, same, same) == [(same, None)] * 3
    assert meet(same, same, summary={"test_bpd": 3.5}) == [(same, {"test_bpd": 3.5})] * 2


@pytest.mark.long
def test_a_worker_takes_what_it_leaves_open_from_worker_0():
    given = ["--dataset=digits", "--strategy=multi_worker", "--workdir=unused"]
    is_open = config_of(given)
    found = {"architecture": "glow", "schedule": "end_to_end", "equalize": 0.0, "n_bits": 5}
    found |= {"num_blocks": 1, "flow_steps": 12, "width": 96, "part_epochs": 20}
    some = RunConfig.from_settings(is_open.to_settings() | found, ["finetune_epochs"])
    whole = RunConfig.from_settings(some.to_settings() | {"finetune_epochs": 3})
    for first in (is_open, some, whole):  # the last goes on with a run
        assert meet(first, is_open, function=lifecycle.agree) == [(first, None)] * 2
    typed = config_of([*given, f"--width={is_open.model.width}"])  # worker 0 may choose another
    for heard in meet(is_open, typed, function=lifecycle.agree):
        assert "Received: --width=512 (worker 0: None) of worker 1" in heard


def test_workers_with_other_flags_are_all_told():
    for heard in meet({"seed": 1, "width": 8}, {"seed": 1, "width": 9}):
        assert "must have the same flags. Received: --width=9 (worker 0: 8) of worker 1 (localhost:" in heard


def test_a_worker_that_does_not_come_is_named_to_all(monkeypatch):
    monkeypatch.setattr(liveness, "PATIENCE", 1.0)
    for heard in meet({}, {}, count=3):
        assert "Received: no answer from worker 2 (localhost:" in heard
    monkeypatch.setattr(liveness, "PATIENCE", 0.5)
    with pytest.raises(ConfigError, match=r"Received: no answer from worker 0 \(localhost:1\)"):
        meeting.meet(processes.ProcessGroup("worker", ("localhost:1", "localhost:2"), 1), {}, None)


def test_an_ipv6_address_has_brackets_which_sockets_do_not_get():
    try:
        listener = processes.listen("[::1]:0")
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        assert liveness.answer_of(f"[::1]:{listener.getsockname()[1]}", speaks=False) == "yes"


def test_the_parts_of_a_finished_run_see_its_first_process_come_and_go(monkeypatch):
    monkeypatch.setattr(liveness, "POLL", 0.1)
    with socket.socket() as first, socket.create_server(("localhost", 0)) as other:
        first.bind(("localhost", 0))
        addresses = tuple(f"localhost:{s.getsockname()[1]}" for s in (first, other))
        first.close()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            gone = pool.submit(part_processes.release_others, processes.ProcessGroup("part", addresses, 0))
            assert liveness.wait_for(processes.ProcessGroup("part", addresses, 1), [0]) == []
            gone.result(timeout=20)
    assert liveness.answer_of(addresses[0]) == "refused"


def test_a_process_that_stands_still_is_told_from_one_that_was_never_there_or_answers_late(monkeypatch):
    monkeypatch.setattr(liveness, "POLL", 0.01)
    answers = {"a:1": ["yes"], "b:2": ["silent"], "c:3": ["yes", "silent"], "d:4": ["silent"] * 2 + ["yes"]}

    def first_lost(*others, connected, seconds=20):
        said = {address: list(answers[address]) for address in others}

        def answer_of(address):
            return said[address].pop(0) if len(said[address]) > 1 else said[address][0]

        monkeypatch.setattr(liveness, "answer_of", answer_of)
        over = threading.Event()
        timer = threading.Timer(seconds, over.set)
        timer.start()
        found = liveness.first_lost(
            processes.ProcessGroup("part", ("host:0", *others), 0), over, connected, 0.1
        )
        timer.cancel()
        return found

    assert first_lost("a:1", "c:3", connected=False) == ([], [2])
    assert first_lost("a:1", "b:2", connected=True) == ([], [2])
    assert first_lost("a:1", "b:2", "d:4", connected=False, seconds=0.5) == ([], [])


def test_who_waits_for_a_process_that_stands_still_is_ended_with_its_name(monkeypatch, capfd):
    monkeypatch.setattr(liveness, "first_lost", lambda *_: ([], [1]))
    waits = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stall.end_without_others(processes.ProcessGroup("part", ("a:1", "b:2"), 0), waits.pid, True, 45.0)
    assert waits.wait(timeout=20) == -stall.ENDS_ITS_RUN
    assert capfd.readouterr().err.startswith("Error: Lost the process of part 2 (b:2). The last checkpoint")


def test_a_worker_says_what_is_wrong_before_the_others_are_there(tmp_path, monkeypatch):
    described = {
        "cluster": {"worker": ["localhost:1", "localhost:2"]},
        "task": {"type": "worker", "index": 0},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(OSError, match=r"summary.json is damaged"):
        train(config(tmp_path, strategy="multi_worker"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_launch_lets_the_run_say_what_is_kept(kind, tmp_path):
    process = launch(kind, *flags(tmp_path, **{**FAST, "part_epochs": 500, "rate_schedule": "constant"}))
    wait_for_rows(tmp_path, 2, process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "is kept" in output
    assert processes_of(tmp_path) == []


def watched(refuses, monkeypatch):
    """What collectives were aborted for, of three workers of which the others listen or refuse."""
    aborted = []
    monkeypatch.setattr(liveness, "POLL", 0.01)
    monkeypatch.setattr(workers, "abort_collectives", aborted.append)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(speaking()) for _ in range(3)]
        addresses = tuple(f"localhost:{listener.getsockname()[1]}" for listener in listeners)
        if refuses:
            listeners[2].shutdown(socket.SHUT_RDWR)
        group = processes.ProcessGroup("worker", addresses, 0)
        with broken.naming_who_is_lost(group), workers.watched_workers(group):
            deadline = time.monotonic() + (10 if refuses else 0.5)
            while not aborted and time.monotonic() < deadline:
                time.sleep(0.01)
            if refuses:
                assert len(aborted) == 1
                raise tf.errors.UnavailableError(None, None, "aborted")
    return aborted


def test_what_waits_for_a_worker_that_is_gone_is_aborted(monkeypatch):
    assert watched(False, monkeypatch) == []
    with pytest.raises(OSError, match=r"Lost the process of worker 2 \(localhost:"):
        watched(True, monkeypatch)


@pytest.mark.parametrize("error", [tf.errors.UnavailableError, tf.errors.AbortedError])
def test_a_connection_that_breaks_is_an_error_of_one_sentence(error, monkeypatch):
    monkeypatch.setattr(liveness, "POLL", 0.0)
    with speaking() as there:
        group = processes.ProcessGroup("part", ("localhost:1", f"localhost:{there.getsockname()[1]}"), 0)
        message = r"^Another process failed, or the connection to it \(reset\): part 2 \(.*which answers"
        with pytest.raises(OSError, match=message), broken.naming_who_is_lost(group):
            raise error(None, None, "reset")
        for other in (tf.errors.InvalidArgumentError(None, None, "a defect"), OSError("a full disk")):
            with pytest.raises(type(other), match=r"a defect|a full disk"), broken.naming_who_is_lost(group):
                raise other
    with pytest.raises(error, match="reset"), broken.naming_who_is_lost(None):
        raise error(None, None, "reset")


def test_the_environment_describes_the_processes():
    def read(strategy="part_parallel", **task):
        described = {"cluster": {"part": ["a:1", "b:2", "a:3"]}, "task": {"type": "part", "index": 2} | task}
        return processes.read_process_group(strategy, {"TF_CONFIG": json.dumps(described)})

    assert read() == processes.ProcessGroup("part", ("a:1", "b:2", "a:3"), 2)
    assert read().processes_here == 2
    assert read("one_device") is None
    assert processes.read_process_group("part_parallel", {}) is None
    assert (
        processes.read_process_group("part_parallel", {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'})
        is None
    )
    many = {"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}
    with pytest.raises(ConfigError, match="needs a TF_CONFIG of"):
        processes.read_process_group("multi_worker", {"TF_CONFIG": json.dumps(many)})
    for wrong in ({"index": 3}, {"type": "worker"}, {"index": None}, {"strategy": "multi_worker"}):
        with pytest.raises(ConfigError, match="needs a TF_CONFIG of"):
            read(**wrong)
    with pytest.raises(ConfigError, match=r"Received: TF_CONFIG='\{'"):
        processes.read_process_group("part_parallel", {"TF_CONFIG": "{"})
    with pytest.raises(ConfigError, match=r"multi_worker needs a TF_CONFIG .* Received: TF_CONFIG=''"):
        processes.read_process_group("multi_worker", {})


def test_the_gpus_of_a_machine_are_divided_between_its_processes(tmp_path, monkeypatch):
    def visible(count, environment):
        return [added.get("CUDA_VISIBLE_DEVICES") for added in children.gpus_of_each(count, environment)]

    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible(2, {}) == [None, None]  # no driver
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf 'GPU 0: H100\\n  MIG 1g\\nGPU 1: H100\\nGPU 2: H100\\n'\n")
    driver.chmod(0o755)
    assert visible(2, {}) == ["0,2", "1"]
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "4,GPU-ab"}) == ["4", "GPU-ab"]
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "-1"}) == [None, None]
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "0,-1,1"}) == ["0", "0"]  # CUDA reads no further
    assert visible(4, {}) == ["0", "1", "2", "0"]
    shared = children.gpus_of_each(4, {})
    assert all(added["TF_FORCE_GPU_ALLOW_GROWTH"] == "true" for added in shared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts=5,5"], "add up to"),
        pytest.param(["x"], "flags are written --name=value. Received: ['x'", marks=pytest.mark.slow),
    ],
)
def test_launch_refuses_what_main_would(arguments, message):
    process = launch("part", *arguments, "--workdir=unused")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in output
