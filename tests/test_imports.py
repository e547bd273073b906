"""Imports point one way, and the library knows no flags."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent / "glow_tf"
ORDER = [
    "partition",
    "schedule",
    "config",
    "likelihood",
    "streams",
    "bijectors",
    "parts",
    "glow",
    "placement",
    "sources",
    "data",
    "cluster",
    "distribution",
    "metrics",
    "diagnosis",
    "prefix",
    "optimizers",
    "trainer",
    "images",
    "tables",
    "workdir",
    "tfp_views",
    "checkpoints",
    "export",
    "callbacks",
    "progress",
    "run",
    "planner",
    "study",
    "comparison",
]


def _imports(path):
    """Modules of the package that a file imports when it runs (not those for type checkers alone)."""
    tree = ast.parse(path.read_text())
    guarded = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) for n in ast.walk(i)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glow_tf"):
            names = [a.name for a in node.names] if node.module == "glow_tf" else [node.module.split(".")[1]]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if not a.name.startswith("glow_tf"))


def test_every_module_is_in_the_order_and_imports_only_earlier_ones():
    files = {p.stem: p for p in ROOT.glob("*.py") if p.stem != "__init__"}
    assert set(files) | {"bijectors"} == set(ORDER)
    for name, path in files.items():
        for imported in _imports(path):
            if imported in ORDER:
                assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}"


def test_bijectors_import_nothing_above_them():
    for path in (ROOT / "bijectors").glob("*.py"):
        assert set(_imports(path)) & set(ORDER) <= {"bijectors", "likelihood", "streams"}


def test_the_library_reads_no_flags():
    for path in ROOT.rglob("*.py"):
        assert "absl" not in path.read_text()


def test_the_architecture_page_lists_every_file_and_every_keras_class():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    for path in (*ROOT.rglob("*.py"), *(ROOT.parent / "train").glob("*.py")):
        assert path.name in page, path.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base) for base in node.bases}
                if any(base.startswith("keras.") or base in ("Bijector", "Chain") for base in bases):
                    assert node.name in page, node.name
