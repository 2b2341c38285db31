"""How figures look: colours, marks, sizes of text, legends; shared by everything that draws.

Colours are those of Okabe and Ito (2008) that can be seen on white and on black; marks, hatches and dashes differ as
well, so that no reading hangs on colour alone. ``INK``, ``FAINT``, ``GRID`` and ``PAPER`` are exchanged by the page for
the colours of its theme.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from diffembed.errors import MissingExtraError

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#7F7F7F")
INK, FAINT, GRID, PAPER = "#1b1b1f", "#6b6b73", "#d9d9de", "#fefefe"
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
HATCHES = ("", "////", "....", "xxxx")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
WIDTH = 7.6  # inches
_CHARACTERS = 12.5  # of legend text in an inch
_FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei")


def matplotlib_module() -> Any:
    """matplotlib, with the parts that draw without a window."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        message = "figures need matplotlib, which is not installed; run: pip install 'diffembed[report]'"
        raise MissingExtraError(message) from error
    return matplotlib


def settings(salt: str) -> dict[str, Any]:
    """matplotlib's settings for one figure; ``salt`` makes its ids in the SVG, the same ones each time."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {
        "svg.hashsalt": f"diffembed-{salt}",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": [font for font in _FONTS if font in installed],
        "font.size": 9.0,
        "text.parse_math": False,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.unicode_minus": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        "path.simplify": False,
    }


def new_figure(matplotlib: Any, title: str, height: float) -> Any:
    """An empty figure of the common width; ``height`` in inches, without the title."""
    lines = textwrap.wrap(title, 84)
    figure = matplotlib.figure.Figure(figsize=(WIDTH, height + 0.2 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=10.5, x=0.01, ha="left", fontweight="bold")
    return figure


def colour(style: int) -> str:
    """The colour of a style."""
    return PALETTE[style % len(PALETTE)]


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` characters; a long word is broken."""
    return "\n".join(textwrap.wrap(text, width)) or text


def row_height(names: Sequence[str], width: int) -> float:
    """Inches that the tallest of some wrapped names takes at an axis."""
    return 0.16 * max((wrapped(name, width).count("\n") + 1 for name in names), default=1) + 0.04


def legend_columns(labels: Sequence[str]) -> int:
    """How many labels stand side by side."""
    longest = max((min(len(label), 44) for label in labels), default=1)
    return max(1, min(len(labels), int(WIDTH * _CHARACTERS / (longest + 7))))


def legend_height(labels: Sequence[str]) -> float:
    """Inches that ``add_legend`` takes."""
    lines = sum(len(wrapped(label, 44).split("\n")) for label in labels)
    return 0.2 * -(-lines // legend_columns(labels)) + 0.1


def add_legend(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Under the axes, in as many columns as fit."""
    shown = [wrapped(label, 44) for label in labels]
    if shown:
        figure.legend(handles, shown, loc="outside lower left", ncols=legend_columns(labels), fontsize=8.5)
