"""The pictures of a `compress` run: size, latency and quality by stage, bytes by component, seconds by stage.

Reads the ledger as a result file holds it (mtrec_edge_runtime.results). Knows nothing of pages.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mtrec_edge_compress.pictures import INK, OURS, SECOND, THEIRS, WIDE, bars, figure_svg, picture, short

OWN, KNOWN = "student's own item vectors", "known items: the teacher's vectors"
ACROSS = 3  # panels side by side

Ledger = Mapping[str, Any]  # a result with `stages`
Shares = Mapping[str, Mapping[str, float]]  # stage -> task -> share of the teacher's metric kept


def size_picture(ledger: Ledger) -> str:
    """Draw the bytes of each stage's files, and how many times smaller than the teacher they are."""
    sizes = {stage: found["size_bytes"] for stage, found in ledger["stages"].items() if "size_bytes" in found}
    first = next(iter(sizes.values()))
    rows = [(stage, size / 1e6, f"{size / 1e6:.2f} MB{times(first, size)}") for stage, size in sizes.items()]
    return picture("Size by stage, MB", lambda axes: bars(axes, rows, colours=_colours(sizes)))


def latency_pictures(ledger: Ledger) -> tuple[str, ...]:
    """Draw the median time of one text through each stage's encoder, whiskers to the 95th percentile; one a length."""
    timed = {stage: found["latency_ms"] for stage, found in ledger["stages"].items() if found.get("latency_ms")}
    lengths = dict.fromkeys(tokens for found in timed.values() for tokens in found)
    return tuple(
        _latency(tokens, {stage: found[tokens] for stage, found in timed.items() if tokens in found})
        for tokens in lengths
    )


def _latency(tokens: str, timed: Mapping[str, Mapping[str, float]]) -> str:
    first = next(iter(timed.values()))["p50"]
    rows = [(stage, ms["p50"], f"{ms['p50']:.2f} ms{times(first, ms['p50'])}") for stage, ms in timed.items()]

    def draw(axes: Axes) -> None:
        bars(axes, rows, colours=_colours(timed))
        for place, ms in enumerate(timed.values()):
            axes.plot([ms["p50"], ms["p95"]], [place + 0.4] * 2, color=INK, linewidth=1)

    return picture(f"Latency by stage, ms at {tokens} tokens", draw)


def component_picture(components: Mapping[str, int]) -> str:
    """Draw the bytes of the shipped encoder by component."""
    whole = sum(components.values()) or 1
    rows = [(name, size / 1e6, f"{size / 1e6:.2f} MB, {size / whole:.0%}") for name, size in components.items()]
    return picture("Bytes of the shipped encoder by component, MB", lambda axes: bars(axes, rows))


def seconds_picture(seconds: Mapping[str, float]) -> str:
    """Draw how long each stage of the pipeline took."""
    rows = [(name, taken / 60, duration(taken)) for name, taken in seconds.items()]
    return picture("Time by stage, minutes", lambda axes: bars(axes, rows, room=1.3))


def retention_picture(own: Mapping[str, float], known: Mapping[str, float]) -> str:
    """Draw what is kept of the teacher on each task as bars from 100 %, which is the teacher."""
    names = list(dict.fromkeys([*own, *known]))

    def draw(axes: Axes) -> None:
        for shares, colour, label, shift in ((own, OURS, OWN, -0.2), (known, SECOND, KNOWN, 0.2)):
            rows = [(place + shift, shares[name] - 1) for place, name in enumerate(names) if name in shares]
            axes.barh([y for y, _ in rows], [x for _, x in rows], left=1, height=0.36, color=colour, label=label)
            for y, x in rows:
                axes.annotate(
                    f"{1 + x:.1%}",
                    (1 + x, y),
                    (4 if x >= 0 else -4, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if x >= 0 else "right",
                    color=INK,
                    fontsize=8,
                )
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(range(len(names)), [short(name) for name in names])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.tick_params("y", length=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, -0.1 - 0.8 / len(names)), ncols=2)

    return picture("What is kept of the teacher, which is 100 %", draw, (WIDE, 1.2 + 0.42 * len(names)))


def quality_picture(own: Shares, known: Shares) -> str:
    """Draw the retention of each task from stage to stage, one panel a task, all with one scale."""
    tasks = list(dict.fromkeys(task for shares in own.values() for task in shares))
    down = ceil(len(tasks) / ACROSS)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, task in zip(panels, tasks, strict=False):
            _panel(panel, task, own, known)
        for panel in panels[len(tasks) :]:
            panel.set_axis_off()
        for panel in panels[max(0, len(tasks) - ACROSS) : len(tasks)]:  # the last of each column
            panel.tick_params("x", labelbottom=True, labelrotation=35)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
        figure.suptitle("Quality by stage: share of the teacher's metric", x=0.01, ha="left", color=INK, fontsize=11)

    return figure_svg("Quality by stage", draw, (WIDE, 1.3 + 1.55 * down))


def _panel(axes: Axes, task: str, own: Shares, known: Shares) -> None:
    stages = list(own)
    axes.axhline(1, color=THEIRS, linewidth=1)
    for shares, colour, label, style in ((own, OURS, OWN, "o-"), (known, SECOND, KNOWN, "s--")):
        rows = [(place, shares[stage][task]) for place, stage in enumerate(stages) if task in shares.get(stage, {})]
        axes.plot([x for x, _ in rows], [y for _, y in rows], style, color=colour, label=label, markersize=4)
    axes.set_title(short(task), loc="left", color=INK, fontsize=9)
    axes.set_xticks(range(len(stages)), [short(stage) for stage in stages], ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def times(first: float, now: float) -> str:
    """Return how many times less than at first, for a label; nothing when it is the same."""
    return f" · {first / now:.3g}x less" if now and now != first else ""


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _colours(stages: Mapping[str, object]) -> list[str]:
    return [THEIRS if stage == "teacher" else OURS for stage in stages]
