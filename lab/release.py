"""Makes a release of a clean clone: edits, the gate, a commit, a tag, packages, docs.

    make release VERSION=1.0.0

names the version in the package, the changelog and the citation. It leaves the commit, the tag v1.0.0,
packages in dist/, and the docs of this version on the branch gh-pages, where the site's version menu finds
them. Nothing is sent anywhere: the command says at the end what to push. If the gate fails, the files are as
they were.
"""

from __future__ import annotations

import datetime
import pathlib
import re
import subprocess
import sys

from glow_tf.core.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
UNRELEASED = re.compile(r"^## .*\(unreleased\)\n", re.MULTILINE)
VERSION, CHANGELOG, CITATION = "glow_tf/version.py", "CHANGELOG.md", "CITATION.cff"


def edited(texts: dict[str, str], version: str, date: str) -> dict[str, str]:
    """Returns the files that name the version, as a release has them.

    Args:
      texts: the content of version.py, CHANGELOG.md and CITATION.cff by name.
      version: such as `1.0.0`.
      date: such as `2026-12-01`.

    Raises:
      ConfigError: the version is none, or is not newer than the last, or the changelog has nothing new.
    """
    before = re.search(r'__version__ = "([^"]+)"', texts[VERSION]).group(1)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or _numbers(version) <= _numbers(before):
        raise ConfigError(f"VERSION must be three numbers, more than {before}. Received: {version=}")
    heading = UNRELEASED.search(texts[CHANGELOG])
    if not heading or not texts[CHANGELOG][heading.end() :].partition("\n## ")[0].strip():
        raise ConfigError(f"{CHANGELOG} must say what is new, below '## … (unreleased)'. Received: nothing")
    citation = re.sub(r"(?m)^version: .*$", f"version: {version}", texts[CITATION])
    return {
        VERSION: texts[VERSION].replace(f'"{before}"', f'"{version}"'),
        CHANGELOG: UNRELEASED.sub(f"## {version} - {date}\n", texts[CHANGELOG], 1),
        CITATION: re.sub(r"(?m)^date-released: .*$", f"date-released: {date}", citation),
    }


def release(root: pathlib.Path, version: str, date: str, gate: list[str]) -> None:
    """Edits, tests, commits and tags a clean clone; its files are restored if the gate fails.

    Raises:
      ConfigError: as `edited`, or the clone has changes of its own, or the tag exists.
      CalledProcessError: the gate failed.
    """
    if changes := _git(root, "status", "--porcelain"):
        raise ConfigError(f"a release is made of a clean clone. Received: changes\n{changes}")
    if _git(root, "tag", "--list", f"v{version}"):
        raise ConfigError(f"the version must be new. Received: the tag v{version}, which exists")
    texts = {name: (root / name).read_text(encoding="utf-8") for name in (VERSION, CHANGELOG, CITATION)}
    after = edited(texts, version, date)
    try:
        for name, text in after.items():
            (root / name).write_text(text, encoding="utf-8")
        subprocess.run(gate, cwd=root, check=True)
        _git(root, "commit", "--quiet", "--message", f"Release {version}", *after)
    except BaseException:
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        raise
    _git(root, "tag", "--annotate", f"v{version}", "--message", f"Release {version}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _git(root: pathlib.Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def main(version: str) -> None:
    """Makes the release, then the packages and the docs."""
    release(ROOT, version, datetime.date.today().isoformat(), [".ci/run"])
    short = version.rpartition(".")[0]
    packages = [f"dist/glow_tf-{version}.tar.gz", f"dist/glow_tf-{version}-py3-none-any.whl"]
    for command in (
        [sys.executable, "-m", "build", "--outdir", "dist"],
        [sys.executable, "-m", "twine", "check", "--strict", *packages],
        ["mike", "deploy", "--update-aliases", short, "latest"],
        ["mike", "set-default", "latest"],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    print(f"To publish: git push --follow-tags; git push origin gh-pages; twine upload dist/*{version}*")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or [""])
    except ConfigError as error:
        sys.exit(f"Error: {error}")
