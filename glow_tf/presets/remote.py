"""Presets that are kept elsewhere: on the Hugging Face Hub, or in a folder of a web server. No TensorFlow."""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import tempfile
import threading
import time
import types
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import parse_json
from glow_tf.presets.weights_file import ROOM, model_bytes

CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # a preset's files
CHECKSUM = "weights_sha256"  # in config.json
HUB = "hf://"
PREFIXES = (HUB, "https://", "http://")
MOST_BYTES = {CONFIG: 2**22, WEIGHTS: 2**32}
# A web server has so many seconds for a file, and one more for each SLOWEST bytes that have come.
PATIENCE, SLOWEST = 30.0, 20_000


def is_address(preset: str | os.PathLike) -> bool:
    """Whether a preset's name is an address: `hf://OWNER/NAME[@REVISION]`, or the URL of a folder."""
    return str(preset).startswith(PREFIXES)


def fetched(address: str) -> pathlib.Path:
    """Fetches a preset, and returns the folder of this machine that it is in now.

    The Hub's own library keeps what it fetched, and an old revision beside a new one; where the Hub is out of
    reach, what is kept counts. Of a web server,
    config.json is fetched anew each time, and the weights when their checksum there is another one; those of
    releases before 0.5 have none, and are fetched each time. ConfigError if it cannot be fetched.
    """
    try:
        if address.startswith(HUB):
            return _from_hub(address.removeprefix(HUB))
        return _from_server(address.rstrip("/"))
    except ModuleNotFoundError:
        raise ConfigError(
            "presets of the Hub are fetched by huggingface_hub, which is not installed: "
            f"pip install 'glow_tf[hub]'. Received: preset={address!r}"
        ) from None
    except Exception as error:  # of the Hub's library, of the network, of the disk, of other content
        raise ConfigError(
            f"the preset must be {HUB}OWNER/NAME[@REVISION], or the URL of a folder with {CONFIG} and "
            f"{WEIGHTS}, and within reach. Received: preset={address!r}: "
            f"{type(error).__name__}: {in_one_line(str(error))}"
        ) from None


def _from_hub(name: str) -> pathlib.Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    how = {"allow_patterns": [CONFIG, WEIGHTS], "library_name": "glow_tf", "revision": revision or None}
    for file in (CONFIG, WEIGHTS):
        try:
            url = hf_hub_url(repository, file, revision=revision or None)
            size = get_hf_file_metadata(url, library_name="glow_tf").size
        except EntryNotFoundError:
            raise ValueError(f"it has no {file}") from None
        except (HfHubHTTPError, ValueError):  # what the Hub answers, or no name
            raise
        except Exception as error:  # it is out of reach: what was fetched before will do
            try:
                return pathlib.Path(snapshot_download(repository, local_files_only=True, **how))
            except LocalEntryNotFoundError:
                raise error from None
        if size is None or size > MOST_BYTES[file]:
            raise ValueError(f"its {file} may have at most {MOST_BYTES[file]} bytes, and has {size}")
    return pathlib.Path(snapshot_download(repository, **how))


def _from_server(url: str) -> pathlib.Path:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    name = f"{pathlib.PurePosixPath(urlsplit(url).path).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    folder = home / "glow_tf" / "presets" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as new:
        own = _download(f"{url}/{CONFIG}", pathlib.Path(new), MOST_BYTES[CONFIG])
        settings = parse_json(own.read_bytes().decode())
        kept, most = folder / WEIGHTS, _most_bytes_of_weights(settings)
        folder.mkdir(exist_ok=True)
        if most and (not kept.is_file() or checksum(kept) != settings.get(CHECKSUM)):
            _download(f"{url}/{WEIGHTS}", pathlib.Path(new), most).replace(kept)
        old = folder / CONFIG
        if not old.is_file() or old.read_bytes() != own.read_bytes():
            own.replace(old)
    return folder


def _most_bytes_of_weights(settings: Any) -> int:
    """Returns what a file of the weights may have; 0 if the settings are of no model."""
    try:
        model = ModelConfig.of_saved(settings["model"])
        needed = math.inf if model.has_own_steps else ROOM + 2 * model_bytes(model)
        return min(needed, MOST_BYTES[WEIGHTS])
    except (ValueError, TypeError, KeyError):
        return 0


def checksum(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _download(url: str, folder: pathlib.Path, most: int) -> pathlib.Path:
    """Fetches a file into a folder; OSError if it has more than `most` bytes, or comes too slowly.

    A thread fetches, which can be left: Python's own timeout is one of silence, not of the whole.
    """
    path, end = folder / url.rpartition("/")[2], time.monotonic() + PATIENCE
    state = types.SimpleNamespace(received=0, given_up=False, error=None)

    def fetch() -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "glow_tf"})
        try:
            opener = urllib.request.build_opener(_Redirects)
            with opener.open(request, timeout=PATIENCE) as answer, path.open("wb") as file:
                claimed = int(answer.headers.get("Content-Length", 0))
                while not state.given_up and max(claimed, state.received) <= most:
                    if not (block := answer.read1(2**20)):
                        break
                    file.write(block)
                    state.received += len(block)
            if max(claimed, state.received) > most:
                raise OSError(f"{url}: it may have at most {most} bytes, and has more")
            if state.received < claimed:
                raise OSError(f"{url}: it ended after {state.received} of {claimed} bytes")
        except urllib.error.HTTPError as error:
            state.error = OSError(f"{url}: {error.code} {error.reason}")
        except Exception as error:  # of the network, or of the disk
            state.error = error

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    while thread.is_alive():
        if time.monotonic() > end + state.received / SLOWEST:
            state.given_up = True
            raise TimeoutError(
                f"{url}: it must come within {PATIENCE:g} s and at {SLOWEST} bytes per second after that; "
                f"{state.received} bytes have come"
            )
        thread.join(0.05)
    if state.error is not None:
        raise state.error
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to the web alone, and none from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https:",) if req.type == "https" else ("https:", "http:")
        if not newurl.lower().startswith(allowed):
            raise OSError(
                f"{req.full_url}: a redirect must lead to {' or '.join(allowed)} Received: {newurl}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
