"""The documents: their code runs, their commands exist, and they name everything that is public."""

import ast
import importlib
import inspect
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest
from absl import flags
from small import ROOT, architecture

import glow_tf
from glow_tf.commands import cli, parsing
from glow_tf.commands import train as train_command
from glow_tf.core.errors import ConfigError
from lab import CONFIGS

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("bijectors", "data", "devices", "training", "store", "run", "use")
LAB = ["lab.experiment", "lab.report", "lab.benchmarks.train_normflows", "lab.benchmarks.defects"]
NAMED = {"flagfile": parsing.configs_folder(), "study": CONFIGS / "studies"}
RUNS = re.compile(r"^<!-- runs -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = re.compile(r"https?://\S+")
PROGRAM = re.compile(r"^(?:python train/(\w+)\.py|python -m (lab[.\w]+)|glow-tf (\w+))")
EXAMPLE = re.compile(r"^python (examples/\w+\.py)( .*)?$")


def _name(page):
    return str(page.relative_to(ROOT))


def _blocks():
    for page in PAGES[1:]:  # that of the README is run below
        for count, block in enumerate(RUNS.findall(page.read_text()), start=1):
            yield pytest.param(page, block, id=f"{_name(page)}-{count}")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), _blocks())
def test_a_block_that_is_marked_as_runnable_runs(page, block, tmp_path, monkeypatch):
    run_block(page, block, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_example_of_the_readme_beats_independent_pixels(tmp_path, monkeypatch):
    page = ROOT / "README.md"
    names = run_block(page, *RUNS.findall(page.read_text()), tmp_path, monkeypatch)
    # A model that treats every pixel on its own needs 2.42.
    assert np.mean(names["flow"].bits_per_dim(names["images"].test)) < 2.4


def run_block(page, block, tmp_path, monkeypatch):
    for folder in ("docs", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(block, _name(page), "exec"), names)
    return names


def test_the_readme_has_an_example_of_at_most_25_lines():
    (example,) = RUNS.findall((ROOT / "README.md").read_text())
    assert example.count("\n") <= 25


def test_the_readme_fits_on_three_screens():
    assert (ROOT / "README.md").read_text().count("\n") <= 140


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_lines_have_at_most_100_characters(page):
    fenced = False
    for line in page.read_text().splitlines():
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith(("|", "    ")):
            assert len(URL.sub("", line)) <= 100, line


def _commands():
    """Yields every command that begins a line of a code block or a cell of a table."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        in_blocks = re.findall(r"^(?:    )?((?:python |glow-tf ).*)$", text, re.MULTILINE)
        in_tables = re.findall(r"(?<=\| )`((?:python |glow-tf )[^`]*)`", text)
        for line in (*in_blocks, *in_tables):
            yield pytest.param(line, id=f"{_name(page)}-{line[:60]}")


@pytest.mark.parametrize("line", _commands())
def test_a_command_names_an_existing_program_and_its_flags(line):
    words = shlex.split(line, comments=True)
    if words[1] == "--help":
        return
    if example := EXAMPLE.match(line):
        script, arguments = example.groups()
        assert (line if arguments else script) in (ROOT / script).read_text()
        return
    values = _flags(line)
    for word in words[2:]:
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--":
            values = flags.FlagValues()
            train_command.define(values)
        elif word.startswith("--") and name != "help":
            if name in NAMED:
                assert value == "FILE" or parsing.find_config(name, value, named=NAMED[name]).is_file(), word
            else:
                assert name in values or name.removeprefix("no") in values, word
                assert equals or values[name.removeprefix("no") if name not in values else name].boolean, word


def _flags(line):
    script, in_lab, command = PROGRAM.match(line).groups()
    values = flags.FlagValues()
    if in_lab:
        importlib.import_module(in_lab).define(values)
        return values
    if script:
        assert (ROOT / "train" / f"{script}.py").is_file(), line
        command = "train" if script == "main" else script
    assert command in cli.COMMANDS, line
    importlib.import_module(f"glow_tf.commands.{command}").define(values)
    return values


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_flags_in_the_text_exist(page):
    known = {"flagfile", "help"}
    for program in (*(f"glow_tf.commands.{command}" for command in cli.COMMANDS), *LAB):
        values = flags.FlagValues()
        importlib.import_module(program).define(values)
        known |= set(values)
    for example in (ROOT / "examples").glob("*.py"):
        known |= set(re.findall(r'add_argument\("--(\w+)"', example.read_text()))
    for span in re.findall(r"`(--[^`]+)`", page.read_text()):
        for name in re.findall(r"--(\w+)", span):
            assert name in known or name.removeprefix("no") in known, span


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_in_the_text_exist(page):
    paths = re.findall(r"\b(?:glow_tf|train|lab|tests|configs)/[\w/]+\.(?:py|cfg)\b", page.read_text())
    for path in paths:
        assert (ROOT / path).is_file(), path


def _exported(module):
    names = [n for n, value in vars(module).items() if n[0] != "_" and not inspect.ismodule(value)]
    return set(getattr(module, "__all__", names))


def test_the_reference_lists_the_public_names_which_have_docstrings():
    text = (ROOT / "docs" / "reference" / "index.md").read_text()
    rows = dict(re.findall(r"^\| `glow_tf\.?(\w*)` \| (.*) \|$", text, re.MULTILINE))
    assert set(rows) == {"", "architectures", "config", *PACKAGES}
    for package, row in rows.items():
        module = importlib.import_module(f"glow_tf.{package}".rstrip("."))
        listed = set(re.findall(r"`(\w+)`", row))
        also_for_others = package in ("architectures", "config")  # what other packages need of them
        assert listed <= _exported(module) if also_for_others else listed == _exported(module)
        for name in listed:
            own = getattr(module, name).__doc__ or f"{name}("
            assert not own.startswith(f"{name}("), name  # Python's own, of a dataclass or a NamedTuple


def _public_names():
    """Yields the public names as they are imported, and the place of each definition."""
    for package in ("glow_tf", *(f"glow_tf.{name}" for name in PACKAGES)):
        module = importlib.import_module(package)
        for name in _exported(module):
            value = getattr(module, name)
            home = value.__module__ if hasattr(value, "__qualname__") else None
            yield f"{package}.{name}", f"{home}.{value.__name__}" if home else None


def test_every_public_name_is_on_a_reference_page():
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    for name, home in _public_names():
        short = name.rsplit(".", 1)[1]
        ends = [path for path in documented if path.rsplit(".", 1)[1] == short]
        assert (home in documented) if home else ends, name


def test_what_the_page_of_use_describes_is_in_the_package_of_that_name():
    text = (ROOT / "docs" / "reference" / "use.md").read_text()
    names = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)", text, re.MULTILINE)}
    assert names <= set(importlib.import_module("glow_tf.use").__all__)


def test_every_reference_is_to_something_that_exists():
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for path in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE):
            module, name = path.rsplit(".", 1)
            assert hasattr(importlib.import_module(module), name), path


def test_the_architecture_names_every_file():
    files = {
        str(path.relative_to(ROOT))
        for folder in ("glow_tf", "train", "lab")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / "lab" / "tests")
    }
    assert set(architecture()) == files


def _keras_classes():
    bases = (
        keras.layers.Layer,
        keras.optimizers.Optimizer,
        keras.optimizers.schedules.LearningRateSchedule,
        keras.metrics.Metric,
        keras.callbacks.Callback,
    )
    for path in sorted((ROOT / "glow_tf").rglob("*.py")):
        classes = [n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
        public = [name for name in classes if not name.startswith("_")]
        if not public:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in public:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, bases):
                yield name


def test_the_architecture_names_every_public_keras_class():
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text.split("## Classes")[1].split("## Decisions")[0]
    for name in _keras_classes():
        assert re.search(rf"\b{name}\b", tree), name


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_within_the_repository_lead_somewhere(page):
    """The strict build of the site checks the pages in docs/; this also checks README.md."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not URL.match(target):
            assert (page.parent / target).exists(), target


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert "cff-version: 1.2.0" in text
    assert f"version: {glow_tf.__version__}" in text
    for key in ("message:", "title:", "authors:", "references:"):
        assert re.search(rf"^{key}", text, re.MULTILINE)


def test_a_config_that_does_not_exist_is_noticed():
    """What `test_a_command_names_an_existing_program_and_its_flags` relies on."""
    with pytest.raises(ConfigError):
        parsing.find_config("flagfile", "configs/none.cfg")
    assert isinstance(parsing.configs_folder(), pathlib.Path)
