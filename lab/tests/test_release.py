"""A release changes what names the version, after the gate, or nothing."""

import pathlib
import subprocess

import pytest

from glow_tf.core.errors import ConfigError
from lab.release import CHANGELOG, CITATION, ROOT, VERSION, edited, release

DATE = "2031-02-03"


def git(root, *arguments):
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path):
    for name in (VERSION, CHANGELOG, CITATION):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / CHANGELOG).write_text(
        "# Changelog\n\n## 0.2.0 (unreleased)\n\n- New.\n\n## 0.1.0\n\n- Old.\n"
    )
    (tmp_path / VERSION).write_text('__version__ = "0.1.0"\n')
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "somebody")
    git(tmp_path, "config", "user.email", "somebody@example.org")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "before")
    return tmp_path


def test_a_release_is_a_tagged_commit_of_the_new_version(clone):
    release(clone, "0.2.0", DATE, ["grep", "-q", "0.2.0", VERSION])
    assert (clone / VERSION).read_text() == '__version__ = "0.2.0"\n'
    assert "## 0.2.0 - 2031-02-03\n\n- New.\n\n## 0.1.0" in (clone / CHANGELOG).read_text()
    assert "version: 0.2.0\ndate-released: 2031-02-03\n" in (clone / CITATION).read_text()
    assert git(clone, "describe").strip() == "v0.2.0"
    assert not git(clone, "status", "--porcelain")
    with pytest.raises(ConfigError, match=r"must be new\. Received: the tag v0\.2\.0"):
        release(clone, "0.2.0", DATE, ["true"])


def test_a_gate_that_fails_leaves_everything_as_it_was(clone):
    with pytest.raises(subprocess.CalledProcessError):
        release(clone, "0.2.0", DATE, ["false"])
    assert not git(clone, "status", "--porcelain")
    assert not git(clone, "tag")


def test_changes_that_are_not_committed_are_refused(clone):
    (clone / VERSION).write_text("changed")
    with pytest.raises(ConfigError, match="clean clone"):
        release(clone, "0.2.0", DATE, ["true"])


@pytest.mark.parametrize("version", ["", "0.2", "0.1.0", "0.0.9", "v0.2.0", "0.2.0rc1"])
def test_other_versions_are_refused(version):
    texts = {VERSION: '__version__ = "0.1.0"', CHANGELOG: "## 0.2.0 (unreleased)\n\n- New.\n", CITATION: ""}
    with pytest.raises(ConfigError, match=r"three numbers, more than 0\.1\.0\. Received"):
        edited(texts, version, DATE)


@pytest.mark.parametrize("changelog", ["## 0.1.0\n\n- Old.\n", "## 0.2.0 (unreleased)\n\n## 0.1.0\n\n- Old."])
def test_a_release_without_news_is_refused(changelog):
    texts = {VERSION: '__version__ = "0.1.0"', CHANGELOG: changelog, CITATION: ""}
    with pytest.raises(ConfigError, match="must say what is new"):
        edited(texts, "0.2.0", DATE)


def test_the_files_of_this_clone_can_be_edited():
    texts = {name: (pathlib.Path(ROOT) / name).read_text() for name in (VERSION, CHANGELOG, CITATION)}
    after = edited(texts, "99.0.0", DATE)
    assert all("99.0.0" in text for text in after.values())
