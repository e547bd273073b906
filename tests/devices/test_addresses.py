"""Which addresses the processes of a run may have."""

import ipaddress
import json
import socket

import pytest
from helpers import config

from glow_tf.core.errors import ConfigError
from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup
from glow_tf.run import lifecycle
from glow_tf.run.files.flags_file import differing_settings, flagfile, read_flagfile

PUBLIC = "203.0.114.7"


@pytest.mark.parametrize(
    "near",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
    ],
)
def test_loopback_private_and_link_local_addresses_are_near(near):
    assert liveness.is_private(ipaddress.ip_address(near))


@pytest.mark.parametrize(
    "far",
    ["8.8.8.8", PUBLIC, "172.32.0.1", "100.64.0.1", "0.0.0.0", "::", "2001:4860::1", f"::ffff:{PUBLIC}"],
)
def test_all_others_are_far(far):
    assert not liveness.is_private(ipaddress.ip_address(far))


def check(*hosts):
    liveness.check_addresses(ProcessGroup("part", tuple(f"{host}:2222" for host in hosts), 0))


def test_a_public_address_is_refused_with_what_to_do():
    check("localhost", "10.0.0.1", "[::1]")
    with pytest.raises(
        ConfigError, match=rf"tunnel.*--insecure_network.* Received: TF_CONFIG with {PUBLIC}:2222$"
    ):
        check("localhost", PUBLIC)
    with pytest.raises(ConfigError, match=r"with \[2001:4860::1\]:2222"):
        check("[2001:4860::1]")


def test_a_name_is_refused_for_one_public_address_among_its_addresses(monkeypatch):
    found = [(socket.AF_INET, 0, 0, "", (own, 0)) for own in ("10.0.0.1", PUBLIC)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ConfigError, match=rf"TF_CONFIG with host1:2222, which is {PUBLIC}$"):
        check("host1")


def test_names_may_come_late_and_are_checked_then(monkeypatch):
    answers = iter([OSError("unknown"), OSError("unknown"), [(socket.AF_INET, 0, 0, "", (PUBLIC, 0))]])

    def resolve(*_, **__):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(liveness, "POLL", 0.0)
    with pytest.raises(ConfigError, match="which is"):
        check("host1")


def test_a_name_that_nobody_knows_is_said_to_be_unknown(monkeypatch):
    monkeypatch.setattr(liveness, "PATIENCE", 0.0)
    with pytest.raises(ConfigError, match=r"must have addresses. Received: none\.invalid:2222"):
        check("none.invalid", "localhost")


@pytest.mark.parametrize("kind", ["part", "worker"])
def test_a_process_with_a_public_address_does_not_start(tmp_path, monkeypatch, kind):
    described = {"cluster": {kind: [f"{PUBLIC}:2222", "localhost:2223"]}, "task": {"type": kind, "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    served = []
    monkeypatch.setattr(lifecycle, "serve", lambda group, cores: served.append(group.index))
    monkeypatch.setattr(lifecycle, "_train_in", lambda workdir, group, *others: served.append(group.index))
    strategy = {"part": "part_parallel", "worker": "multi_worker"}[kind]
    settings = config(tmp_path / "run", strategy=strategy)
    with pytest.raises(ConfigError, match=f"Received: TF_CONFIG with {PUBLIC}:2222"):
        lifecycle.train(settings, None)
    assert not served
    assert not (tmp_path / "run").exists()
    allowed = config(tmp_path / "run", strategy=strategy, insecure_network=True)
    lifecycle.train(allowed, None)
    assert served == [1]
    assert differing_settings(read_flagfile(flagfile(settings)), allowed) == {}
