"""Packages import one way, private APIs are in one file, and pure modules need no TensorFlow."""

import ast
import functools
import importlib
import importlib.metadata
import inspect
import math
import pathlib
import re
import sys
import typing

import numpy as np
import pytest
from small import architecture, run_program

from glow_tf.run import callbacks

ROOT = pathlib.Path(__file__).parent.parent / "glow_tf"

# From what knows least to what knows most; a line's names may not import those of later lines.
ORDER = [
    ["version"],
    ["core"],
    ["config"],
    ["architectures"],
    ["internals"],
    ["bijectors"],
    ["model"],
    ["data"],
    ["devices"],
    ["training"],
    ["store"],
    ["run"],
    ["use"],
    ["commands"],
]
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}

# Private besides names with a leading underscore.
PRIVATE = re.compile(
    r"tensorflow\.python|\bkeras\.src\b|\bcontext\.context\(\)|\.add_update\b|"
    r"experimental_attributes"
)
# A text that names a module of the package, or what is in it: an import in another form.
NAMED = re.compile(r"(glow_tf\.(\w+)[\w.]*?)\.?(:\w+)?")
PUBLIC = {"_replace", "_asdict", "_exit"}  # in spite of their names: of named tuples, of os


@functools.cache
def _nodes(path):
    """Returns the nodes of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def _statements(path):
    """Returns the nodes of a file, except imports for type checkers alone."""
    guarded = {id(n) for i in _nodes(path) if isinstance(i, ast.If) for n in ast.walk(i)}
    return tuple(node for node in _nodes(path) if id(node) not in guarded)


@pytest.fixture(scope="module", autouse=True)
def _forgotten():
    """The trees are large, and no other test of the process reads them."""
    yield
    _nodes.cache_clear()
    _statements.cache_clear()


def _imports(path):
    """Yields the names below glow_tf that a file imports."""
    for node in _statements(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glow_tf":
            if node.module == "glow_tf":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("glow_tf."))


def _named(path):
    """Returns the modules of the package that texts of a file name."""
    texts = (n.value for n in _statements(path) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {found[1] for text in texts if (found := NAMED.fullmatch(text))}


def _files():
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def _files_of_the_lab():
    """Returns the lab's files without its tests."""
    lab = ROOT.parent / "lab"
    return sorted([*lab.glob("*.py"), *lab.glob("[!t]*/*.py")])


def _package(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_file_belongs_to_a_package_of_the_order():
    assert {_package(path) for path in _files()} <= set(PLACE)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_towards_what_knows_less(path):
    own = _package(path)
    named = {name.split(".")[1] for name in _named(path)}
    for name in {*_imports(path), *named} - {own}:
        assert PLACE[name] < PLACE[own], f"{path.name} imports {name}"


def test_modules_of_a_package_do_not_import_one_another_in_a_circle():
    imports = {}
    for path in (*_files(), *_files_of_the_lab()):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        froms = [n for n in _statements(path) if isinstance(n, ast.ImportFrom) and n.module]
        found = {n.module for n in froms}
        found |= {f"{n.module}.{a.name}" for n in froms for a in n.names} | _named(path)
        imports[module] = found
    waiting = set(imports)
    while waiting:
        free = {m for m in waiting if not (imports[m] & waiting) - {m}}
        assert free, f"a circle among {sorted(waiting)}"
        waiting -= free


def test_the_package_does_not_know_the_lab():
    for path in [*_files(), ROOT / "__init__.py"]:
        assert not re.search(r"^\s*(from|import) lab\b", path.read_text(), re.MULTILINE), path


def test_the_library_reads_no_flags_outside_of_commands():
    for path in _files():
        if _package(path) != "commands":
            assert "absl" not in path.read_text(), path


def test_no_library_module_names_a_file_of_train():
    for path in _files():
        assert not re.search(r"train/\w+\.py", path.read_text()), path


def test_private_apis_are_used_in_one_file():
    files = [*_files(), *_files_of_the_lab()]
    own = {
        node.name if hasattr(node, "name") else node.attr
        for path in files
        for node in _nodes(path)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    }
    for path in files:
        if path.name == "internals.py":
            continue
        text = path.read_text()
        assert not PRIVATE.search(text), path
        for node in _nodes(path):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
                assert node.attr in own | PUBLIC, f"{path.name}: {node.attr}"


def _pure_modules():
    """Returns the modules that the architecture calls pure: they know no TensorFlow."""
    pure = [pathlib.PurePath(path).with_suffix("") for path, pure in architecture().items() if pure]
    return [".".join(path.parts).removesuffix(".__init__") for path in pure]


def test_the_package_and_its_pure_modules_load_no_tensorflow():
    pure = _pure_modules()
    assert {"glow_tf.config", "glow_tf.run.history", "lab.studies.comparison"} <= set(pure)
    program = "import importlib, sys, glow_tf\n"
    program += f"for name in {[*pure, 'glow_tf.commands.cli']}: importlib.import_module(name)\n"
    program += "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    assert run_program(program, cwd=ROOT.parent).strip() == "[]"


def test_sizes_and_costs_are_planned_without_tensorflow():
    program = """
import sys
from glow_tf import ModelConfig, store
from glow_tf.architectures import design_of
from glow_tf.architectures.schedule import epoch_costs, phases
for settings in ({"parts": "across_block:3", "local_prior": "flow:8x2"}, {"architecture": "levels"}):
    design = design_of(ModelConfig((32, 32, 3), condition_shape=(4,), **settings))
    turns = phases("alternating", design.num_parts, 6, 1)
    assert len(epoch_costs(design.layouts, turns)) == 7 and design.model_bytes > 0
assert store.about("digits") and design_of(store.settings_of("digits")).layouts
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""
    assert run_program(program, cwd=ROOT.parent).strip() == "[]"


WINDOWS_HAS_NO = {"fcntl", "resource"}


def test_what_windows_does_not_have_is_imported_within_functions_alone():
    for path in _files():
        nodes = list(_statements(path))
        within = {id(n) for f in nodes if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in within]
        names = {getattr(n, "module", None) or alias.name for n in imports for alias in n.names}
        assert not names & WINDOWS_HAS_NO, path


def test_the_peak_of_memory_is_unknown_where_there_is_no_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(callbacks.peak_memory_mb())


def _public_methods(module):
    """Yields the classes of a module with the names of the methods and properties that they define."""
    for name, own in vars(module).items():
        if inspect.isclass(own) and own.__module__ == module.__name__ and not name.startswith("_"):
            for method, value in vars(own).items():
                if inspect.isroutine(value) or isinstance(value, property | classmethod):
                    yield own, method


def test_every_public_method_has_a_docstring_or_overrides_one_that_has():
    names = (".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in _files())
    for own, method in (pair for name in names for pair in _public_methods(importlib.import_module(name))):
        theirs = [base for base in own.__mro__ if not base.__module__.startswith("glow_tf")]  # Keras's
        known = method.startswith("_") or any(hasattr(base, method) for base in theirs)
        assert known or inspect.getdoc(getattr(own, method)), f"{own.__name__}.{method}"


def test_every_public_name_can_be_imported():
    import glow_tf

    for name in glow_tf.__all__:
        assert getattr(glow_tf, name) is not None
    packages = {"bijectors", "data", "devices", "run", "store", "training", "use"}
    assert {name for name in dir(glow_tf) if not name.startswith("__")} == {*glow_tf.__all__, *packages}
    assert all(inspect.ismodule(getattr(glow_tf, name)) for name in packages)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = glow_tf.nothing


def test_an_editable_install_is_a_path_which_type_checkers_follow():
    for file in importlib.metadata.files("glow_tf"):
        if file.name.endswith(".pth"):
            assert (pathlib.Path(file.read_text().strip()) / "glow_tf" / "py.typed").is_file(), (
                "install again"
            )


def test_type_checkers_read_that_models_take_arrays():
    from glow_tf.model.compiled_model import CompiledModel

    for method in (CompiledModel.log_prob, CompiledModel.encode, CompiledModel.score):
        assert np.ndarray in typing.get_args(typing.get_type_hints(method)["images"])
