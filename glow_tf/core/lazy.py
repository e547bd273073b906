"""Names that are imported when they are first used: a package's public ones, and those of users."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glow_tf.core.errors import ConfigError


def lazy_exports(
    package: str, modules: Mapping[str, Sequence[str]], packages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Makes `__getattr__`, `__dir__` and `__all__` of a package whose names are imported on first use.

    Importing TensorFlow takes seconds. A package that exports its names this way costs nothing until one of
    them is asked for. `modules` has the public names by submodule; no name may equal a submodule's.
    `packages` are the public packages below. `__dir__` shows these names, and what Python itself adds.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def public() -> list[str]:
        special = (name for name in vars(sys.modules[package]) if name.startswith("__"))
        return sorted({*special, *homes, *packages})

    return get, public, sorted(homes)


def imported(setting: str, name: str) -> Any:
    """Returns what `module:Class` names; ConfigError, with the setting that says so, if there is nothing."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{setting} must be module:Class, with a module that Python finds (PYTHONPATH=.). {error}. "
            f"Received: {setting}={name!r}"
        ) from None
