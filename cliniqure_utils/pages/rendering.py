"""Rendering a page: values to one HTML text that needs no network, no script and no other file."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cliniqure_utils.figures.style import number_places
from cliniqure_utils.pages import parts, templates
from cliniqure_utils.vocabulary import DISCLAIMER

THUMBNAIL = 120  # pixels


def render(template: str, title: str, **values) -> str:
    """A whole page as HTML text.

    Args:
        template: One of `templates`: RUN, FILM or FILMS.
        title: Of the window, and the heading.
        values: What the template names; one that it names and that is missing is an error.

    Returns:
        HTML, UTF-8, self-contained; a content security policy in it forbids every outside resource. All values are
        escaped: text comes from models, file names and headers.

    Source: ours; jinja2 with autoescape.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    texts = {"base": templates.BASE, "parts": parts.PARTS, "style": parts.STYLE}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    return environment.from_string(template).render(title=title, disclaimer=DISCLAIMER, **values)


def _cell(value) -> str:
    """A table cell: three decimals for a fraction, a dash for nothing."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def figure_png(figure, dpi: int = 110) -> bytes:
    """A matplotlib Figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def pixels_png(pixels: np.ndarray, texts: PngInfo | None = None) -> bytes:
    """uint8 (height, width) or (height, width, 3) as PNG, the same pixels, with texts of its own beside them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True, pnginfo=texts)
    return buffer.getvalue()


def film_with_boxes(
    film: bytes, size: tuple[float, float], boxes: Sequence, truth: Sequence[tuple[str, Sequence]] = ()
) -> dict:
    """What the macro `parts.film` draws.

    Args:
        film: PNG of any size.
        size: (width, height) that the boxes are in pixels of.
        boxes: x_min, y_min, x_max, y_max each; numbered from 1.
        truth: (class name, box) each, lettered from A.
    """
    sign = 0.044 * max(size)
    letters = [chr(ord("A") + n) if n < 26 else str(n) for n in range(len(truth))]
    return {
        "url": data_url(film), "width": size[0], "height": size[1], "sign": sign,
        "boxes": list(zip(range(1, len(boxes) + 1), boxes, number_places(boxes, sign), strict=True)),
        "truth": [(letter, name, box) for letter, (name, box) in zip(letters, truth, strict=True)],
    }  # fmt: skip


def thumbnail(pixels: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a small JPEG, so that the list of many films stays light."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=70)
    return buffer.getvalue()


def data_url(picture: bytes) -> str:
    """A PNG or JPEG as an address that holds the picture itself."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")
