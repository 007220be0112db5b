"""Draw with matplotlib into SVG text that stands inside a page: no dates, no addresses, equal input gives equal bytes.

Knows nothing of what is drawn.
"""

import warnings
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# blue and orange are told apart by every kind of colour blindness, and in grey (Okabe and Ito, 2008)
OURS, SECOND, THEIRS, INK = "#1b6ca8", "#e69f00", "#b7bec6", "#22262a"
MARKS = "osD^v<>P"  # of lines that colour alone does not tell apart
SIZE = (5.2, 3.0)  # inches of one picture
LONGEST = 28  # characters of a name beside a picture
WIDE = 10.6  # inches: as wide as two side by side


def picture(title: str, draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> str:
    """Return a picture of one pair of axes as SVG."""

    def on_figure(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", color=INK)
        draw(axes)

    return figure_svg(title, on_figure, size)


def figure_svg(title: str, draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Return a whole figure as SVG of `size` inches, named `title` for those who cannot see it."""
    style = {
        "svg.hashsalt": "mtrec-edge",  # else its ids differ from run to run
        "text.parse_math": False,  # a `$` in a task's name is no formula
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the table has the name in full
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = StringIO()
        # what says neither when nor by what it was drawn has no metadata, so no addresses of vocabularies either
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    _, _, body = text.getvalue().partition("<svg")
    return f'<svg role="img" aria-label="{escape(title)}"{body}'


def short(name: str) -> str:
    """Return a name that leaves room for the picture; the tables have it in full."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def bars(
    axes: Axes, values: Sequence[tuple[str, float, str]], *, colours: Sequence[str] | None = None, room: float = 1.6
) -> None:
    """Draw horizontal bars from above: name, length, and what is written behind it; `room` times the longest wide."""
    names = [short(name) for name, _, _ in values]
    axes.barh(range(len(values)), [value for _, value, _ in values], color=colours or OURS, height=0.66)
    axes.set_yticks(range(len(values)), names)
    axes.invert_yaxis()
    for place, (_, value, label) in enumerate(values):
        axes.annotate(label, (value, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_xlim(0, room * max((value for _, value, _ in values), default=1) or 1)
    axes.tick_params("y", length=0)
