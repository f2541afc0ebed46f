"""Rendering a page: values to one HTML text that needs no network, no script and no other file."""

import base64
import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cliniqure_utils.pages import templates
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

    environment = Environment(
        loader=DictLoader({"base": templates.BASE}), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
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


def pixels_png(pixels: np.ndarray, texts: PngInfo) -> bytes:
    """uint8 (height, width, 3) as PNG, the same pixels, with texts of its own beside them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True, pnginfo=texts)
    return buffer.getvalue()


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
