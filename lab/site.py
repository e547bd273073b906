"""Hooks of MkDocs: links of notebooks lead to pages of the site, and every link is followed once it is built.

`mkdocs build --strict` itself looks at the links of Markdown files only. These warnings make it fail, too.
"""

from __future__ import annotations

import html.parser
import logging
import pathlib
import urllib.parse
from typing import Any

logger = logging.getLogger("mkdocs.hooks.site")  # its warnings are errors of a strict build


class HtmlPage(html.parser.HTMLParser):
    """Reads an HTML page: `links`, what it links to or shows, and `anchors`, the ids and names in it."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the links and anchors of a tag."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


def broken_links(site: pathlib.Path) -> list[str]:
    """Follows the links of a built site that stay in it, and returns those that lead nowhere.

    Args:
      site: the folder with the site's index.html.

    Returns:
      `PAGE: LINK (what is missing)`, one per broken link; PAGE is a path in the site.
    """
    site = site.resolve()
    pages = {path: HtmlPage(path.read_text()) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site)}: {link} ({missing})"
        for path, page in pages.items()
        for link in page.links
        if (missing := _missing(link, path, site, pages))
    ]


def _missing(link: str, path: pathlib.Path, site: pathlib.Path, pages: dict[pathlib.Path, HtmlPage]) -> str:
    """Returns what a link on the page at `path` lacks; empty if it is sound, or leads out of the site."""
    url = urllib.parse.urlsplit(link)
    if url.scheme or url.netloc:
        return ""
    name, anchor = urllib.parse.unquote(url.path), urllib.parse.unquote(url.fragment)
    folder = site if name.startswith("/") else path.parent
    target = (folder / name.lstrip("/")).resolve() if name else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or not target.is_relative_to(site):
        return "no such file"
    known = target not in pages or anchor in ("", *pages[target].anchors)
    return "" if known else "no such anchor"


def on_page_content(content: str, /, page: Any, config: Any, files: Any) -> str:
    """Turns a notebook's links to files of the docs into links to pages. MkDocs calls it with each page."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    folder = pathlib.PurePosixPath("/", page.file.src_uri).parent
    for link in set(HtmlPage(content).links):
        name, hash_sign, anchor = link.partition("#")
        source = urllib.parse.urljoin(f"{folder}/", name).lstrip("/")
        if name.endswith((".md", ".ipynb")) and (file := files.get_file_from_path(source)):
            url = file.url_relative_to(page.file) + hash_sign + anchor
            content = content.replace(f'href="{link}"', f'href="{url}"')
    return content


def on_post_build(config: Any) -> None:
    """Warns of broken links, and says if try.md lacks files. MkDocs calls it at the end of a build."""
    page = pathlib.Path(config.site_dir) / "try"
    if missing := [name for name in ("model", "runtime") if not (page / name).is_dir()]:
        logger.info("The page try.md does not run: docs/try/ lacks %s. make try", " and ".join(missing))
    for broken in broken_links(pathlib.Path(config.site_dir)):
        logger.warning("Broken link: %s", broken)
