"""matplotlib figures as SVG inside a page: its colours and its font, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Drawn in a colour that nothing else has, replaced by the variable of the style sheet: so a figure
# follows light and dark.
VARIABLES = (
    "ink",
    "soft",
    "line",
    "pass",
    "fail",
    "abstain",
    "band",
    "training-keras",
    "training-torch",
    "validation-keras",
    "validation-torch",
)
COLOURS = {name: f"#{number:02x}fe{number:02x}" for number, name in enumerate(VARIABLES, 1)}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "parity",  # else ids differ from run to run
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
    "font.size": 9,
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["line"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
SIZE = (4.6, 2.75)  # inches: on a telephone the figure fills the width, with letters of 9 points


def drawn(draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """The `<svg>` that `draw` makes on a pair of axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata=_NO_METADATA)
    return embedded(content.getvalue())


def embedded(text: str) -> str:
    """The `<svg>` of a file by matplotlib, for inside a page.

    Without prolog and size; ids and the references to them begin with a digest of the drawing, so
    that two drawings on one page keep apart.
    """
    svg = text[text.index("<svg") :]
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    key = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = svg.replace("url(#", f"url(#{key}-").replace('href="#', f'href="#{key}-')
    return svg.strip()


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
