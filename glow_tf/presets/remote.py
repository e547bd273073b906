"""Presets that are kept elsewhere: on the Hugging Face Hub, or in a folder of a web server. No TensorFlow."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from glow_tf.durable_files import write_atomically
from glow_tf.errors import ConfigError, in_one_line

CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # a preset's files
CHECKSUM = "weights_sha256"  # in config.json
HUB = "hf://"
PREFIXES = (HUB, "https://", "http://")
TIMEOUT = 30  # seconds without an answer


def is_address(preset: str | os.PathLike) -> bool:
    """Whether a preset's name is an address: `hf://OWNER/NAME[@REVISION]`, or the URL of a folder."""
    return str(preset).startswith(PREFIXES)


def fetched(address: str) -> pathlib.Path:
    """Fetches a preset, and returns the folder of this machine that it is in now.

    The Hub's own library keeps what it fetched, and an old revision beside a new one. Of a web server,
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
    from huggingface_hub import snapshot_download

    files, (repository, _, revision) = [CONFIG, WEIGHTS], name.partition("@")
    how = {"revision": revision or None, "allow_patterns": files, "library_name": "glow_tf"}
    folder = pathlib.Path(snapshot_download(repository, **how))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    return folder


def _from_server(url: str) -> pathlib.Path:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    name = f"{pathlib.PurePosixPath(urlsplit(url).path).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    folder = home / "glow_tf" / "presets" / name
    settings = _download(f"{url}/{CONFIG}")
    expected, kept = json.loads(settings).get(CHECKSUM), folder / WEIGHTS
    if not kept.is_file() or hashlib.sha256(kept.read_bytes()).hexdigest() != expected:
        content = _download(f"{url}/{WEIGHTS}")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, content)
    own = folder / CONFIG
    if not own.is_file() or own.read_bytes() != settings:
        write_atomically(own, settings)
    return folder


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "glow_tf"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {error.reason}") from None
