"""The installed commands: help, flags, flagfiles by name, and how they end."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest
import tensorflow as tf
from absl import flags as absl_flags
from small import ROOT, run_program

from glow_tf.commands import cli, parsing
from glow_tf.commands import train as train_command
from glow_tf.core.errors import ConfigError
from glow_tf.run.flags_file import flagfile
from glow_tf.run.interrupts import ENDS


def module(main, define=lambda values: None, **more):
    """A command that does what a test wants."""
    command = types.ModuleType("command", "Does something.")
    command.define, command.main = define, main
    for name, value in more.items():
        setattr(command, name, value)
    return command


def test_help_lists_every_command_and_loads_no_tensorflow():
    program = (
        "import sys; from glow_tf.commands import cli; status = cli.main(['--help'])\n"
        "statuses = [status, *(cli.run(name, ['--help']) for name in cli.COMMANDS)]\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{statuses} {heavy}' if any(statuses) or heavy else 0)"
    )
    overview = run_program(program).split("`glow-tf COMMAND --help`")[0]
    for name in cli.COMMANDS:
        (line,) = [line for line in overview.splitlines() if line.split()[:1] == [name]]
        assert line.endswith(".")
        assert len(line) <= 110


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_shows_an_example_and_each_flag_with_its_default(name, capsys):
    assert cli.run(name, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"glow-tf {name} (\w+ )?--", shown)  # some have an action first
    values = absl_flags.FlagValues()
    cli._module(name).define(values)
    for flag in values:
        assert f"  --{flag}=" in shown
        assert " ".join(values[flag].help.split()) in " ".join(shown.split())
    assert "--flagfile=" in shown


def test_the_script_in_train_runs_the_command():
    command = [sys.executable, ROOT / "train" / "main.py", "--help"]
    assert "glow-tf train --" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_command_that_does_not_exist_is_named(capsys):
    assert cli.main(["tarin"]) == 1
    expected = f"glow-tf needs a command first: {', '.join(cli.COMMANDS)}. Received: 'tarin'"
    assert capsys.readouterr().err == f"Error: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart"], "flags are written --name=value. Received: ['quickstart']"),
        (["--workdirr=x"], "Unknown command line flag 'workdirr'. Did you mean: workdir ?"),
        (["--seed=x"], "seed must be an integer. Received: --seed=x"),
        (["--export=x"], "export must be true or false. Received: --export=x"),
        (["--seed"], "Missing value for flag --seed"),
        (
            ["--flagfile=none"],
            "flagfile must be a file, or the name of a config that comes with glow_tf: cifar10_small_",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, capsys):
    assert cli.run("train", arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert error.count("\n") == 1


def test_what_is_typed_wins_over_flagfiles_and_the_later_flag_over_the_earlier(tmp_path):
    (tmp_path / "own.cfg").write_text("# a comment\n// another\n\n  --seed=3\n--width=7\n--notensorboard\n")
    files = ["--flagfile=quickstart", f"--flagfile={tmp_path}/own.cfg"]
    config = train_command.config_of(files)
    found = (config.seed, config.model.width, config.tensorboard, config.workdir)
    assert found == (3, 7, False, "runs/quickstart")
    typed = ["--seed=1", "--tensorboard", "--width", "9"]
    for arguments in ([*typed, *files], [*files, *typed], [files[0], *typed, files[1]]):
        config = train_command.config_of(arguments)
        assert (config.seed, config.tensorboard, config.model.width) == (1, True, 9)
    assert train_command.config_of(["--flagfile", "quickstart", "--width", "9", "--width=8"]).model.width == 8
    assert train_command.config_of(["--width=8", "--flagfile=quickstart", "--width=9"]).model.width == 9


@pytest.mark.parametrize(
    ("arguments", "scaling"),
    [
        ([], "size"),
        (["--optimizer=adam"], "size"),
        (["--learning_rate=1e-3"], "none"),
        (["--learning_rate=1e-3", "--rate_scaling=size"], "size"),
        (["--flagfile=defaults", "--learning_rate", "1e-3"], "none"),
        (["--flagfile=defaults"], "size"),
        (["--flagfile=paper_4"], "none"),  # whose scaling is that of the file that it includes
        (["--flagfile=rate.cfg"], "size"),
    ],
    ids=str,
)
def test_a_typed_rate_is_scaled_only_if_that_is_typed_too(tmp_path, monkeypatch, arguments, scaling):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rate.cfg").write_text("--flagfile=defaults\n--learning_rate=2e-2\n")
    assert train_command.config_of([*arguments, "--workdir=unused"]).train.rate_scaling == scaling


@pytest.mark.parametrize("was", ["size", "none"])
def test_a_run_that_goes_on_has_the_scaling_that_it_began_with(tmp_path, was):
    """Releases until 0.5 scaled a typed rate; flags.cfg says so."""
    typed = [f"--workdir={tmp_path}", "--learning_rate=5e-2"]
    (tmp_path / "flags.cfg").write_text(flagfile(train_command.config_of([*typed, f"--rate_scaling={was}"])))
    assert train_command.config_of(typed).train.rate_scaling == was
    config = train_command.config_of([f"--flagfile={tmp_path}/flags.cfg", "--workdir=another"])
    assert config.train.rate_scaling == was


def test_a_leading_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = train_command.config_of(["--workdir=~/runs/mine", "--dataset=folder:~/x", "--data_dir=a~/b"])
    assert config.workdir == f"{tmp_path}/runs/mine"
    assert config.data.data_dir == "a~/b"
    values = absl_flags.FlagValues()
    parsing.define(values, workdirs=([], ""))
    parsing.parse(values, ["--workdirs=~/a,b~/c"])
    assert values.workdirs == [f"{tmp_path}/a", "b~/c"]


def test_flagfiles_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("paper_5", "paper_5.cfg", "configs/paper_5.cfg"):
        config = train_command.config_of([f"--flagfile={value}"])  # which includes configs/defaults.cfg
        assert (config.model.parts, config.train.batch_size) == ("across_block:3", 256)
    # A file of the current folder goes first, and what it includes may come with the package.
    (tmp_path / "paper_5.cfg").write_text("--flagfile=defaults\n--seed=5\n--workdir=mine\n")
    assert train_command.config_of(["--flagfile=paper_5.cfg"]).seed == 5
    # A config of the package includes those of the package.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "defaults.cfg").write_text("--seed=6\n")
    assert train_command.config_of(["--flagfile=paper_5"]).seed == 0
    assert train_command.config_of(["--flagfile=configs/defaults.cfg", "--workdir=x"]).seed == 6


def test_a_flagfile_that_includes_itself_is_refused(tmp_path):
    path = tmp_path / "own.cfg"
    path.write_text(f"--flagfile={path}\n")
    with pytest.raises(ConfigError, match="must not include itself"):
        train_command.config_of([f"--flagfile={path}"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("a setting"), 1, "Error: a setting\n"),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device\n"),
        (OSError("\x1b[2J\u202e\udcff é\u3000"), 1, "Error: \\x1b[2J\\u202e\\udcff é\u3000\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted. Run the same command again.\n"),
        (KeyboardInterrupt("Epoch 3 is kept."), 130, "\nInterrupted. Epoch 3 is kept.\n"),
    ],
)
def test_an_expected_end_is_a_sentence_and_a_status(error, status, message, capsys):
    def main(values):
        raise error

    assert cli.run_module(module(main), []) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_command_with_a_sentence(number, capsys, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", ENDS.get)  # whatever has started the tests, such as `nohup`

    def main(values):
        signal.raise_signal(number)

    assert cli.run_module(module(main), []) == 130
    assert capsys.readouterr().err == "\nInterrupted. Run the same command again.\n"


def test_a_signal_that_the_caller_ignores_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        assert cli.run_module(module(lambda values: signal.raise_signal(signal.SIGHUP)), []) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_too_little_memory_is_a_sentence(capsys):
    def main(values):
        raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate 8 GB")

    assert cli.run_module(module(main), []) == 1
    found = capsys.readouterr().err
    assert found.startswith("Error: TensorFlow ran out of memory")
    assert "Received: failed to allocate 8 GB" in found


def test_a_mistake_in_the_program_is_not_hidden():
    def main(values):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run_module(module(main), [])


def test_the_status_is_what_main_returns():
    assert cli.run_module(module(lambda values: None), []) == 0
    assert cli.run_module(module(lambda values: 3), []) == 3


@pytest.mark.slow
def test_an_installation_outside_of_the_clone_trains_by_name(tmp_path):
    environment, home = tmp_path / "venv", tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=200)
    python = environment / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", *(ROOT / name for name in SOURCE), _made(source)], check=True)
    # Only the build tools are downloaded: the other packages are those of the tests' environment. PYTHONPATH
    # does not read its .pth files, so the clone is not found there.
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", source]
    subprocess.run(install, check=True, timeout=300)
    dependencies = {p for p in sys.path if pathlib.Path(p).name in ("site-packages", "dist-packages")}
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), *sorted(dependencies)])}

    def glow_tf(*arguments):
        command = [environment / "bin" / "glow-tf", *arguments]
        return subprocess.run(command, cwd=home, env=path, capture_output=True, text=True, timeout=300)

    where = [python, "-c", "import glow_tf; print(glow_tf.__file__)"]
    found = subprocess.run(where, cwd=home, env=path, capture_output=True, text=True)
    assert pathlib.Path(found.stdout.strip()).parent == packages / "glow_tf"
    assert (packages / "glow_tf" / "py.typed").exists()
    assert "  sample  " in glow_tf("--help").stdout
    assert not (packages / "lab").exists()
    small = ["--part_epochs=1", "--finetune_epochs=0", "--flow_steps=2", "--width=8", "--train_examples=128"]
    trained = glow_tf("train", "--flagfile=quickstart", *small)
    assert trained.returncode == 0, trained.stderr
    assert (home / "runs" / "quickstart" / "export" / "saved_model.pb").exists()


SOURCE = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "glow_tf", "configs")


def _made(folder):
    folder.mkdir()
    return folder
