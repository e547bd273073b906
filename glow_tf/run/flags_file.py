"""flags.cfg: the settings of a run as text. Pure Python: no TensorFlow."""

import contextlib
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from glow_tf.config import FILE, FOLDER, MAY_DIFFER, RunConfig, all_settings
from glow_tf.core.errors import ConfigError
from glow_tf.run.settings import LEVELS, SIZES

NAME = "flags.cfg"
HEADING = "# From: "  # before the source of the settings that follow


def flagfile(config: RunConfig, sources: Mapping[str, str] | None = None) -> str:
    """Returns a flagfile that repeats the run; settings of one `source` stand together, below its name."""
    settings, lines = config.to_settings(), []
    of = {name: (sources or {}).get(name, "") for name in settings}
    for source in dict.fromkeys(of.values()):
        lines += [f"{HEADING}{source}"] if source else []
        lines += as_flags({name: value for name, value in settings.items() if of[name] == source})
    return "".join(f"{line}\n" for line in lines)


def sources_of(text: str) -> dict[str, str]:
    """Returns setting → source as `flagfile` wrote them."""
    found, source = {}, ""
    for line in text.split("\n"):
        if line.startswith(HEADING):
            source = line.removeprefix(HEADING)
        elif line.startswith("--") and source:
            found[line[2:].partition("=")[0]] = source
    return found


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as the arguments of a command, `--name=value` each."""
    return [f"--{name}={_text(value)}" for name, value in settings.items()]


def command_of(config: RunConfig) -> str:
    """Returns a command that trains as a run did; paths are left to fill in."""
    usual = RunConfig(workdir=config.workdir).to_settings()
    differing = {
        name: value
        for name, value in config.to_settings().items()
        if name in ("workdir", "dataset", *LEVELS, *SIZES) or value != usual[name]
    }
    if "learning_rate" in differing:  # typed alone, it would not be scaled
        differing["rate_scaling"] = config.train.rate_scaling
    differing |= {name: "PATH" for name in ("data_dir", "init_from", "workdir") if name in differing}
    for kind, place in ((FOLDER, "PATH"), (FILE, "PATH.npy")):
        if config.data.dataset.startswith(kind):
            differing["dataset"] = f"{kind}{place}"
    return shlex.join(["glow-tf", "train", *as_flags(differing)])


def read_flagfile(text: str) -> dict[str, str]:
    """Returns setting → value as `flagfile` wrote them."""
    lines = [line for line in text.split("\n") if line.startswith("--")]
    return dict(line[2:].split("=", 1) for line in lines if "=" in line)


def read_settings(folder: pathlib.Path) -> dict[str, str]:
    """Returns setting → text as a folder's flags.cfg has it; empty without the file."""
    path = folder / NAME
    return read_flagfile(path.read_bytes().decode(errors="surrogateescape")) if path.exists() else {}


def read_values(folder: pathlib.Path, names: Iterable[str]) -> dict[str, Any]:
    """Returns some settings of a folder's flags.cfg, without those that cannot be read."""
    texts, kinds, found = read_settings(folder), _kinds(), {}
    for name in names:
        with contextlib.suppress(ValueError, KeyError):
            found[name] = _value(kinds[name], texts[name])
    return found


def read_config(folder: pathlib.Path) -> RunConfig:
    """Returns the configuration of the run in a folder, with the folder as its workdir.

    ConfigError if there is no run, or another release wrote settings that this one does not have.
    """
    texts = read_settings(folder)
    if not texts:
        raise ConfigError(f"a run's workdir must have the file {NAME}. Received: {str(folder)!r}")
    kinds = _kinds()
    try:
        settings = {name: _value(kinds.get(name, str), text) for name, text in texts.items()}
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{folder / NAME} is damaged. Received: {error}") from None
    return RunConfig.from_settings({**settings, "workdir": str(folder)})


def differing_settings(before: Mapping[str, str], config: RunConfig) -> dict[str, str]:
    """Returns the settings that should be equal and are not: name → what to say about it.

    Nothing differs from an empty `before` of `read_settings`, nor what is in `MAY_DIFFER`.
    """
    now = read_flagfile(flagfile(config))
    return {
        name: f"--{name}={now[name]} (was {before.get(name)})"
        for name in now
        if before and name not in MAY_DIFFER and now[name] != before.get(name)
    }


def _kinds() -> dict[str, type]:
    return {setting.name: type(setting.default) for setting in all_settings()}


def _value(kind: type, text: str) -> Any:
    """Returns what `_text` wrote; ValueError or KeyError if it was something else."""
    return {"true": True, "false": False}[text] if kind is bool else kind(text)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
