"""The command line: `glow-tf NAME --flag=value …`, and the one runner that all commands share."""

import contextlib
import faulthandler
import importlib
import inspect
import io
import sys
import textwrap
import types
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from glow_tf.commands.parsing import parse
from glow_tf.config import DataConfig
from glow_tf.core.errors import ConfigError, DivergedError, in_one_line, printable
from glow_tf.data.named import check_named
from glow_tf.run.interrupts import interrupts
from glow_tf.version import __version__

COMMANDS = (
    *("train", "assemble", "preset", "export"),  # models
    *("sample", "evaluate", "score", "enlarge"),  # what is done with them
)
HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
INTERRUPTED = 130  # what shells expect after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, or lists all commands; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in HELP:
        print(_overview())
        return 0
    if name == "--version":
        print(f"glow_tf {__version__}")
        return 0
    if name not in COMMANDS:
        return _error(f"glow-tf needs a command first: {', '.join(COMMANDS)}. Received: {name!r}")
    return run(name, arguments[1:])


def run(name: str, argv: Sequence[str] | None = None) -> int:
    """Runs one of `COMMANDS`; returns the exit status."""
    return run_module(_module(name), argv)


def run_module(command: types.ModuleType, argv: Sequence[str] | None = None) -> int:
    """Runs a command; prints expected errors in one line and returns the exit status.

    A command is a module with a docstring, `define(values)` and `main(values)`. If it has `ACTIONS`, one of
    these comes first, and `main(values, action)` gets it. If it has `TAKES_PATHS`, `main(values, paths)` gets
    the arguments that are no flags.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _quieten()
    try:
        with interrupts():
            return _run(command, arguments)
    except (ConfigError, DivergedError) as error:
        return _error(str(error))
    except OSError as error:
        return _error(_in_words(error))
    except Exception as error:
        if type(error).__name__ != "ResourceExhaustedError":  # TensorFlow's, which may not be loaded
            raise
        return _error(
            "TensorFlow ran out of memory, or of something else. Smaller batches need less memory, and "
            f"training also does with --reversible, in a new workdir. Received: {in_one_line(str(error))}"
        )
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "Run the same command again."
        print(f"\nInterrupted. {what}", file=sys.stderr)
        return INTERRUPTED


def _run(command: types.ModuleType, arguments: list[str]) -> int:
    values = flags.FlagValues()
    command.define(values)
    if not set(HELP).isdisjoint(arguments):
        print(help_text(command, values))
        return 0
    own, passed_on = _split(command, arguments)
    takes_paths = hasattr(command, "TAKES_PATHS")
    paths = parse(values, own, takes_paths)
    passed_on += [paths] if takes_paths else []
    if {"model", "dataset"} <= set(values) and values.dataset:  # before the model is loaded
        check_named(DataConfig(values.dataset, values.data_dir))
    return command.main(values, *passed_on) or 0


def help_text(command: types.ModuleType, values: flags.FlagValues) -> str:
    """Returns what `--help` prints: the command's docstring and all of its flags."""
    lines = [inspect.cleandoc(command.__doc__), "", "Flags:"]
    lines.append("  --flagfile=FILE\n      Read flags from a file; packaged configs are found by name.")
    for name in values:
        flag = values[name]
        default = str(flag.value).lower() if flag.boolean else flag.value
        if isinstance(default, list):
            default = ",".join(default)
        shown = f"--{name}={default}" if default not in ("", None) else f"--{name}= (empty)"
        indents = dict.fromkeys(("initial_indent", "subsequent_indent"), " " * 6)
        about = textwrap.wrap(flag.help, 90, break_on_hyphens=False, **indents)
        lines.append("\n".join([f"  {shown}", *about]))
    lines.append(
        "\nEach flag is shown with its default. Flags are written --name=value; later flags win.\n"
        "What is typed wins over what a flagfile says, wherever it stands."
    )
    return "\n".join(lines)


def _overview() -> str:
    about = {name: inspect.cleandoc(_module(name).__doc__).splitlines()[0] for name in COMMANDS}
    lines = "\n".join(f"  {name:<11} {line}" for name, line in about.items())
    return (
        "Glow trained in gradient-isolated parts. Usage: glow-tf COMMAND --flag=value …\n\n"
        f"{lines}\n\n`glow-tf COMMAND --help` lists the flags of a command."
    )


def _module(name: str) -> types.ModuleType:
    return importlib.import_module(f"glow_tf.commands.{name}")


def _split(command: types.ModuleType, arguments: list[str]) -> tuple[list[str], list[Any]]:
    """Returns the command's own flags, and what else its `main` gets; ConfigError if that is not there."""
    name = command.__name__.rpartition(".")[2]
    if actions := getattr(command, "ACTIONS", ()):
        if not arguments or arguments[0] not in actions:
            raise ConfigError(
                f"glow-tf {name} needs an action first: {' or '.join(actions)}. "
                f"Received: {(arguments or [''])[0]!r}"
            )
        return arguments[1:], arguments[:1]
    return arguments, []


def _quieten() -> None:
    """Hides notices of absl, and lets names of files be printed that are no text."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    sys.stdout = sys.stdout or io.StringIO()  # where a shell has closed it
    # Names of files may hold bytes that are no text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # After a crash in native code this shows where Python was. A replaced stderr may have no file behind it.
    with contextlib.suppress(Exception):
        faulthandler.enable()


def _in_words(error: OSError) -> str:
    """Returns what an error says; of the system's, the reason and the file, whose name may be long."""
    if error.filename is None or not error.strerror:
        return str(error)
    return f"a file cannot be read or written: {error.strerror}. Received: {str(error.filename)[:200]!r}"


def _error(message: str) -> int:
    print(end="", flush=True)  # where both go to one file, the error comes last
    print(f"Error: {printable(message)}", file=sys.stderr)
    return 1
