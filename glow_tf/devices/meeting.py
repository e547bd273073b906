"""How workers meet before they start: all must be there, with the same settings.

Pure Python: no TensorFlow.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import parse_json
from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup, host_and_port, is_chief, listen

LONGEST = 2**20  # characters of a message

Connections = dict[int, tuple[socket.socket, dict[str, str | None]]]  # worker → its connection and settings


def meet(
    group: ProcessGroup, settings: Mapping[str, Any], summary: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Waits until all workers are there and agree; returns worker 0's settings and its summary, if any.

    Every other worker sends its settings to worker 0 over a plain socket at worker 0's address. The address
    is free again, for TensorFlow, when this returns. If a worker does not come in time, or has other
    settings, all raise ConfigError. What is None in a worker's settings may be anything in those of worker 0.
    """
    own = {name: None if value is None else str(value) for name, value in settings.items()}
    if is_chief(group):
        connections = _receive(group)
        error = _disagreement(group, own, connections)
        answer = {"error": error, "settings": settings, "summary": summary}
        for connection, _ in connections.values():
            with connection:
                connection.sendall(json.dumps(answer, default=str).encode() + b"\n")
    else:
        answer = _ask(group.addresses[0], json.dumps([group.index, own]).encode())
        if answer is None:
            raise ConfigError(liveness.missing_message(group, [0]))
    if answer["error"]:
        raise ConfigError(answer["error"])
    return answer["settings"], answer["summary"]


def _disagreement(group: ProcessGroup, own: Mapping[str, str | None], connections: Connections) -> str:
    """Says who is missing or has other settings; empty if all is well."""
    if missing := [k for k in group.others if k not in connections]:
        return liveness.missing_message(group, missing)
    for k, (_, theirs) in sorted(connections.items()):
        differing = {name: value for name, value in theirs.items() if value not in (None, own.get(name))}
        if differing:
            flags = [f"--{name}={value} (worker 0: {own.get(name)})" for name, value in differing.items()]
            return f"all workers must have the same flags. Received: {', '.join(flags)} of {group.names([k])}"
    return ""


def _receive(group: ProcessGroup) -> Connections:
    """Returns the workers that come in time."""
    connections: Connections = {}
    end = time.monotonic() + liveness.PATIENCE
    with listen(group.addresses[0]) as listener:
        while len(connections) < len(group.addresses) - 1 and (left := end - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody came
                continue
            try:
                connection.settimeout(liveness.ANSWER_TIME)  # a worker speaks at once
                index, settings = parse_json(connection.makefile().readline(LONGEST))
                if index not in group.others or not isinstance(settings, dict):
                    raise ValueError
            except (OSError, ValueError, TypeError):  # not a worker
                connection.close()
                continue
            connection.settimeout(liveness.PATIENCE)
            connections[index] = (connection, settings)
    return connections


def _ask(address: str, message: bytes) -> dict[str, Any] | None:
    """Returns worker 0's answer, or None if it does not come in time."""
    end = time.monotonic() + liveness.PATIENCE
    while time.monotonic() < end:
        try:
            with socket.create_connection(host_and_port(address), timeout=liveness.ANSWER_TIME) as connection:
                connection.settimeout(2 * liveness.PATIENCE)
                connection.sendall(message + b"\n")
                return parse_json(connection.makefile().readline(LONGEST))
        except (OSError, ValueError):
            time.sleep(liveness.POLL)
    return None
