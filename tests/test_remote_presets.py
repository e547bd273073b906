"""Presets that are fetched: from a web server, and from one that speaks the Hugging Face Hub's protocol."""

import contextlib
import hashlib
import http.server
import json
import shutil
import sys
import threading
import urllib.request

import pytest

import glow_tf
from glow_tf import presets
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.presets import remote
from lab.benchmarks import hostile_servers

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; its paths are the Hub's where they begin with its repository's name."""

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
        if not path.startswith(("/me/flow/resolve/", "/some/flow/")) or not file.is_file():
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


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    shutil.copytree(presets.find("digits"), folder)
    server = Server(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with contextlib.closing(server.socket):
        yield server
        server.shutdown()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return server


def asked(server, name):
    return sum(path.endswith(name) for path in server.asked)


def test_a_preset_at_a_url_is_the_one_that_is_served(server):
    there, here = (glow_tf.Glow.from_preset(name) for name in (f"{server.url}/some/flow", "digits"))
    assert there.config == here.config
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        assert (a == b).all()


def test_weights_are_fetched_again_only_when_others_are_served(server):
    presets.find(f"{server.url}/some/flow")
    presets.find(f"{server.url}/some/flow/")
    assert asked(server, "config.json") == 2
    assert asked(server, "model.weights.h5") == 1
    with open(server.folder / "model.weights.h5", "ab") as file:
        file.write(b"\0")
    settings = json.loads((server.folder / "config.json").read_text())
    settings["weights_sha256"] = hashlib.sha256((server.folder / "model.weights.h5").read_bytes()).hexdigest()
    (server.folder / "config.json").write_text(json.dumps(settings))
    folder = presets.find(f"{server.url}/some/flow")
    assert asked(server, "model.weights.h5") == 2
    assert (folder / "model.weights.h5").read_bytes() == (server.folder / "model.weights.h5").read_bytes()


def test_a_preset_that_is_kept_already_is_not_written_again(server):
    folder = presets.find(f"{server.url}/some/flow")
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    presets.find(f"{server.url}/some/flow")
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_a_preset_of_a_release_without_checksums_is_fetched(server):
    path = server.folder / "config.json"
    settings = json.loads(path.read_text())
    del settings["weights_sha256"]
    path.write_text(json.dumps(settings))
    for count in (1, 2):
        folder = presets.find(f"{server.url}/some/flow")
        assert asked(server, "model.weights.h5") == count
    presets.read_preset(folder)  # raises no error


def test_weights_that_are_not_those_of_the_settings_are_refused(server):
    (server.folder / "model.weights.h5").write_bytes(b"of something else")
    with pytest.raises(ConfigError, match=r"weights_sha256 must be .* Received"):
        glow_tf.Glow.from_preset(f"{server.url}/some/flow")


@pytest.mark.parametrize("path", ["/nothing/here", "/some/flow"])
def test_what_cannot_be_fetched_is_named(server, path):
    (server.folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"within reach\. Received: .*404"):
        glow_tf.Glow.from_preset(server.url + path)


@pytest.mark.parametrize("kind", hostile_servers.SERVERS)
def test_a_hostile_server_is_refused(kind, tmp_path):
    with pytest.raises(ConfigError, match=rf"within reach\. Received: .*{hostile_servers.SERVERS[kind][1]}"):
        hostile_servers.fetch(kind, tmp_path)
    assert not [*tmp_path.rglob("*.h5"), *tmp_path.rglob("*.json")]


def test_a_redirect_may_not_leave_encryption():
    request = urllib.request.Request("https://here/config.json")
    with pytest.raises(OSError, match=r"a redirect must lead to https: Received: http://there"):
        remote._Redirects().redirect_request(request, None, 302, "Found", {}, "http://there/config.json")


def test_a_file_of_the_hub_has_a_limit(hub, monkeypatch):
    monkeypatch.setitem(remote.MOST_BYTES, "model.weights.h5", 1000)
    with pytest.raises(ConfigError, match=r"weights\.h5 may have at most 1000 bytes, and has \d+"):
        glow_tf.Glow.from_preset("hf://me/flow")


@pytest.mark.long
def test_commands_take_an_address(server, tmp_path, capsys):
    cli.main(["sample", f"--model={server.url}/some/flow", "--num=4", f"--output={tmp_path}/s.png"])
    assert (tmp_path / "s.png").stat().st_size > 0
    assert glow_tf.load(f"{server.url}/some/flow").config.n_bits == 5


def test_a_run_can_start_from_an_address(server, tmp_path):
    from glow_tf.commands import run_flags

    address = f"{server.url}/some/flow"
    config = run_flags.config_of(
        [f"--from_preset={address}", "--dataset=digits", f"--workdir={tmp_path}/run"]
    )
    assert config.init_from == address
    assert config.model.flow_steps == 12


@pytest.mark.parametrize("name", ["hf://me/flow", f"hf://me/flow@{COMMIT}"])
def test_a_preset_of_the_hub_is_the_one_that_is_served(hub, name):
    glow = glow_tf.Glow.from_preset(name)
    for a, b in zip(glow.get_weights(), glow_tf.Glow.from_preset("digits").get_weights(), strict=True):
        assert (a == b).all()
    assert asked(hub, "README.md") == 0


def test_a_repository_of_the_hub_without_a_preset_is_named(hub):
    (hub.folder / "model.weights.h5").unlink()
    with pytest.raises(ConfigError, match=r"hf://OWNER/NAME.* it has no model\.weights\.h5"):
        glow_tf.Glow.from_preset("hf://me/flow")
    with pytest.raises(ConfigError, match=r"hf://OWNER/NAME.* Received: preset='hf://me/other'"):
        glow_tf.Glow.from_preset("hf://me/other")


def test_without_the_hubs_library_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'glow_tf\[hub\]'"):
        glow_tf.Glow.from_preset("hf://me/flow")


@pytest.mark.parametrize("setting", ["architecture", "coupling_network"])
def test_what_is_served_imports_nothing(server, setting, tmp_path, monkeypatch):
    (tmp_path / "served_code.py").write_text("class Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)
    path = server.folder / "config.json"
    settings = json.loads(path.read_text())
    settings["model"][setting] = "served_code:Mine"
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="import its module first"):
        glow_tf.Glow.from_preset(f"{server.url}/some/flow")
    assert "served_code" not in sys.modules


def test_a_preset_of_the_hub_that_was_fetched_once_needs_no_network(hub, monkeypatch):
    from huggingface_hub import constants

    first = presets.find("hf://me/flow")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert presets.find("hf://me/flow") == first
    with pytest.raises(ConfigError, match=r"within reach\. Received: preset='hf://me/other'"):
        presets.find("hf://me/other")
