"""A page of images, each with its name and what is to be said of it; one HTML file that needs no other."""

import base64
import html
from collections.abc import Sequence

import numpy as np

from glow_tf.run import pictures

_STYLE = """
body { font-family: sans-serif; margin: 1.5rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; overflow-wrap: anywhere; font-size: 0.8rem; line-height: 1.3; }
img { width: 100%; max-width: 9rem; image-rendering: pixelated; }
"""


def sheet(
    images: np.ndarray,
    names: Sequence[str],
    notes: Sequence[str],
    reasons: Sequence[str],
    title: str,
    white: int = 255,
) -> str:
    """Returns the page of images uint8 [N, H, W, C], with names, notes and reasons for each.

    `white` is the level that is shown as white.
    """
    figures = []
    shown = pictures.stretched(images, white) if white < 255 else images
    for image, name, note, reason in zip(shown, names, notes, reasons, strict=True):
        data = base64.b64encode(pictures.png(image)).decode()
        texts = [f"<strong>{html.escape(name)}</strong>", html.escape(note), html.escape(reason)]
        caption = "<br>".join(text for text in texts if text)
        figures.append(
            f'<figure><img alt="" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><main>\n" + "\n".join(figures) + "\n</main></body></html>\n"
    )
