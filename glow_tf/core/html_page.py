"""Pages of HTML that need no other file; texts that they are given are escaped. Pure Python."""

import base64
import html
import pathlib
import string
from collections.abc import Iterable

from glow_tf.core.errors import printable

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
SVG, PNG = "svg+xml", "png"  # formats of pictures


def page(title: str, *content: str) -> bytes:
    """Returns a file of HTML, which begins with its title; the content is HTML, such as `section` returns."""
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escaped(title), body="\n".join(filter(None, content))).encode()


def escaped(text: str) -> str:
    """Returns a text as HTML; what could hide in it, such as control characters, is shown."""
    return html.escape(printable(text))


def section(heading: str, *content: str) -> str:
    """Returns content of HTML below a heading; nothing if there is no content."""
    found = [*filter(None, content)]
    return "\n".join([f"<h2>{escaped(heading)}</h2>", *found]) if found else ""


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of text, of a class of the template's styles."""
    return f'<p class="{kind}">{escaped(text)}</p>' if text else ""


def items(texts: Iterable[str], kind: str = "") -> str:
    """Returns a list of texts; nothing if there are none."""
    found = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{found}</ul>' if found else ""


def code(text: str) -> str:
    """Returns lines of text as they are."""
    return f"<pre>{escaped(text)}</pre>"


def folded(summary: str, content: str) -> str:
    """Returns content of HTML that is shown once its summary is clicked."""
    return f"<details><summary>{escaped(summary)}</summary>{content}</details>"


def picture(data: bytes, kind: str, alt: str, *captions: str) -> str:
    """Returns a picture, `PNG` or `SVG`, with lines of text below it."""
    encoded = base64.b64encode(data).decode()
    below = "<br>".join(map(escaped, filter(None, captions)))
    caption = f"<figcaption>{below}</figcaption>" if below else ""
    image = f'<img alt="{escaped(alt)}" src="data:image/{kind};base64,{encoded}">'
    return f"<figure>{image}{caption}</figure>"


def side_by_side(pictures: Iterable[str], kind: str) -> str:
    """Returns pictures in as many columns as fit; `kind` is a class of the template's styles."""
    found = "\n".join(pictures)
    return f'<div class="{kind}">{found}</div>' if found else ""
