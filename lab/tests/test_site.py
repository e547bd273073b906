"""The hooks of the docs' site: notebooks link to pages, and broken links fail a strict build."""

import logging
import types

import pytest

from lab import site

SOUND = """
<h2 id="here">Title</h2> <a name="old"></a>
<a href="#here">1</a> <a href="#old">2</a> <a href="../">3</a> <a href="page/?q=1#there">4</a>
<a href="/page/index.html#there">5</a> <a href="https://example.org/nowhere">6</a>
<a href="mailto:somebody@example.org">7</a> <img src="caf%C3%A9.png"> <img src="data:image/png;base64,AA==">
"""


@pytest.fixture
def built(tmp_path):
    """Returns the folder of a site of two pages and a picture, without a broken link."""
    (tmp_path / "page").mkdir()
    (tmp_path / "index.html").write_text(SOUND.replace("../", "./"))
    (tmp_path / "page" / "index.html").write_text('<p id="there"><a href="../#here">back</a></p>')
    (tmp_path / "café.png").write_bytes(b"")
    return tmp_path


def test_a_site_without_broken_links_is_sound(built):
    assert site.broken_links(built) == []


@pytest.mark.parametrize(
    ("link", "missing"),
    [
        ('<a href="../guides/levels.md">', "no such file"),
        ('<img src="../none.png">', "no such file"),
        ('<a href="../#hare">', "no such anchor"),
        ('<a href="#here">', "no such anchor"),  # it is on the other page
        ('<a href="../../">', "no such file"),  # outside the site
    ],
)
def test_a_broken_link_is_found(built, link, missing, caplog):
    with (built / "page" / "index.html").open("a") as page:
        page.write(link)
    (broken,) = site.broken_links(built)
    assert broken == f"page/index.html: {link.split(chr(34))[1]} ({missing})"
    with caplog.at_level(logging.WARNING, "mkdocs"):
        site.on_post_build(types.SimpleNamespace(site_dir=str(built)))
    assert broken in caplog.text


def test_a_page_that_lacks_its_files_is_said_and_is_no_error(built, caplog):
    (built / "try" / "model").mkdir(parents=True)
    with caplog.at_level(logging.INFO, "mkdocs"):
        site.on_post_build(types.SimpleNamespace(site_dir=str(built)))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "lacks runtime. make try" in record.message


def test_links_of_a_notebook_lead_to_pages():
    content = '<a href="../guides/levels.md#settings">a</a> <a href="../none.md">b</a> <a href="#x">c</a>'
    levels = types.SimpleNamespace(url_relative_to=lambda _: "../../guides/levels/")
    files = types.SimpleNamespace(get_file_from_path={"guides/levels.md": levels}.get)

    def converted(source):
        page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=source))
        return site.on_page_content(content, page=page, config=None, files=files)

    expected = content.replace("../guides/levels.md", "../../guides/levels/")
    assert converted("notebooks/one.ipynb") == expected
    assert converted("notebooks/one.md") == content
