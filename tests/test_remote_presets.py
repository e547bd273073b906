"""Presets that are fetched from a server that speaks the Hugging Face Hub's protocol."""

import contextlib
import hashlib
import http.server
import json
import shutil
import sys
import threading

import pytest
from huggingface_hub import constants, file_download, hf_api

import glow_tf
from glow_tf import store
from glow_tf.commands import cli
from glow_tf.commands import train as train_command
from glow_tf.core.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Serves a folder as the repository me/flow."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answers)
        self.folder, self.asked = folder, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        files = [*self.server.folder.iterdir()]
        if path.startswith("/api/models/me/flow/tree/"):
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            return self.answer(json.dumps(tree).encode())
        if path.startswith("/api/models/me/flow"):
            siblings = [{"rfilename": file.name} for file in files]
            return self.answer(json.dumps({"id": "me/flow", "sha": COMMIT, "siblings": siblings}).encode())
        name = path.rpartition("/")[2]
        file = self.server.folder / name
        if not path.startswith("/me/flow/resolve/") or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            return self.end_headers()
        return self.answer(file.read_bytes())

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def serve_at(url, monkeypatch):
    """Sets where the Hub is; older releases of its library take it when they are imported."""
    for module in (constants, file_download, hf_api):
        monkeypatch.setattr(module, "ENDPOINT", url, raising=False)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(shutil.copytree(store.folder_of("digits"), tmp_path / "served"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    serve_at(hub.url, monkeypatch)
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    with contextlib.closing(hub.socket):
        yield hub
        hub.shutdown()


@pytest.mark.parametrize("name", ["hf://me/flow", f"hf://me/flow@{COMMIT}"])
def test_a_preset_of_the_hub_is_the_one_that_is_served(hub, name):
    flow = glow_tf.load(name)
    for a, b in zip(flow.get_weights(), glow_tf.load("digits").get_weights(), strict=True):
        assert (a == b).all()
    assert not any(path.endswith("README.md") for path in hub.asked)


def test_a_repository_of_the_hub_without_a_preset_is_named(hub):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"hf://OWNER/NAME.* it has no config\.json and model\.safetensors"):
        glow_tf.load("hf://me/flow")
    for name in ("me/other", "me/flow@", "me", "", "a/b/c", "../.."):
        with pytest.raises(ConfigError, match=rf"hf://OWNER/NAME.* Received: preset='hf://{name}'"):
            glow_tf.load(f"hf://{name}")


def test_a_preset_of_the_hub_that_was_fetched_once_needs_no_network(hub, monkeypatch):
    first = store.folder_of("hf://me/flow")
    serve_at("http://127.0.0.1:9", monkeypatch)
    assert store.folder_of("hf://me/flow") == first
    with pytest.raises(ConfigError, match=r"within reach\. Received: preset='hf://me/other'"):
        store.folder_of("hf://me/other")


def test_weights_that_are_not_those_of_the_settings_are_refused(hub):
    (hub.folder / "model.safetensors").write_bytes(b"of something else")
    with pytest.raises(ConfigError, match=r"must be a file of safetensors, and whole\. Received"):
        glow_tf.load("hf://me/flow")


@pytest.mark.long
def test_commands_take_an_address(hub, tmp_path, capsys):
    assert cli.main(["sample", "--model=hf://me/flow", "--num=4", f"--output={tmp_path}/s.png"]) == 0
    assert (tmp_path / "s.png").stat().st_size > 0
    assert glow_tf.load("hf://me/flow").config.n_bits == 5


def test_a_run_can_start_from_an_address(hub, tmp_path):
    config = train_command.config_of(
        ["--init_from=hf://me/flow", "--dataset=digits", f"--workdir={tmp_path}/run"]
    )
    assert config.init_from == "hf://me/flow"
    assert config.model.flow_steps == 12


@pytest.mark.parametrize("setting", ["architecture", "coupling_network"])
def test_what_is_served_imports_nothing(hub, setting, tmp_path, monkeypatch):
    (tmp_path / "served_code.py").write_text("class Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)
    path = hub.folder / "config.json"
    settings = json.loads(path.read_text())
    settings["model"][setting] = "served_code:Mine"
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="import its module first"):
        glow_tf.load("hf://me/flow")
    assert "served_code" not in sys.modules
