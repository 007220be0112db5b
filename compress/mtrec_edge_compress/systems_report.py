"""What `evaluate_bundles` found, as one HTML page to look at: a picture of each task, the table, how to read it.

The page needs no other file and no network. Knows nothing of how a system scores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mtrec_edge_compress.evaluate import ERRORS
from mtrec_edge_compress.page import PAGES
from mtrec_edge_compress.pictures import INK, OURS, THEIRS, picture
from mtrec_edge_compress.systems_table import PER_USER, format_table
from mtrec_edge_runtime.whole_file import write_whole

PAGE = PAGES.from_string("""{% extends "frame" %}{% from "parts" import gallery %}
{% block content %}
<p>{{ about }}</p>
{% for task in tasks %}
<h2>{{ task.name }}</h2>
<p>{{ task.counts }}</p>
{{ gallery(task.pictures) }}
{% if task.against %}
<p>The bundle less each system, on the same users ({{ task.metric }}): {{ task.against }}.</p>
{% endif %}
{% endfor %}
<h2>All figures</h2>
<pre>{{ table }}</pre>
<p>Whiskers are 95 % intervals over users (bootstrap). A difference is real when
its p, corrected for the number of systems (Holm), is below 0.05; one seed tells nothing of other seeds.</p>
{% endblock %}
""")


def write_report(path: Path, table: Mapping[str, Any]) -> None:
    """Write the table of `evaluate_bundles` as an HTML page."""
    users = table["users_per_domain"]
    page = PAGE.render(
        title=f"{table['bundle']} against the baselines",
        about=(
            f"Dataset {table['dataset']['name']}, split {table['dataset']['split_hash']}, test fold, "
            f"{'all users' if users is None else f'a seeded sample of {users:,} users a domain'}, profile "
            f"{table['profile']}, seed {table['seed']}."
        ),
        tasks=[_task(name, table) for name in table["headlines"]],
        table=format_table(dict(table)),
    )
    write_whole(path, page)


def _task(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of one task."""
    metric = table["headlines"][name]
    pictures = [picture(f"{name}: {metric}", lambda axes: _bars(axes, name, metric, table))]
    if table["by_history"].get(name):
        title = f"{PER_USER.get(metric, metric)} by events in the history"
        pictures.append(picture(title, lambda axes: _lines(axes, table["by_history"][name])))
    if table["by_item"].get(name):
        pictures.append(picture("recall@10 by kind of item", lambda axes: _lines(axes, table["by_item"][name])))
    if table["reliability"].get(name):
        pictures.append(picture("probability and frequency", lambda axes: _diagonal(axes, table["reliability"][name])))
    against = (
        f"{other} {found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] p {found['p']:.3g}"
        for other, found in table["against"]["fused"].get(name, {}).items()
    )
    return {
        "name": name,
        "metric": next((found["metric"] for found in table["against"]["fused"].get(name, {}).values()), metric),
        "counts": ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in table["counts"][name].items()),
        "pictures": pictures,
        "against": "; ".join(against),
    }


def _bars(axes: Axes, task: str, metric: str, table: Mapping[str, Any]) -> None:
    """Draw each system's headline metric, the bundle's first; whiskers are its interval."""
    systems = {name: found[task][metric] for name, found in table["systems"].items() if metric in found.get(task, {})}
    names = list(systems)[::-1]
    axes.barh(names, [systems[name] for name in names], color=[OURS if name == "fused" else THEIRS for name in names])
    for place, name in enumerate(names):
        bounds = table["intervals"][name].get(task, {}).get(metric)
        if bounds is not None:
            axes.plot(bounds, [place, place], color=INK, linewidth=1)
        axes.annotate(f" {systems[name]:.3f}", (0, place), va="center", color="white" if name == "fused" else INK)
    if metric in ERRORS and systems:
        axes.set_xlim(left=0.8 * min(systems.values()))
        axes.set_xlabel("smaller is better")


def _lines(axes: Axes, slices: Mapping[str, Mapping[str, float]]) -> None:
    """Draw each system's value over slices, in the order in which they are named."""
    order = list(dict.fromkeys(name for found in slices.values() for name in found))
    for system, found in slices.items():
        own = [name for name in order if name in found]
        colour, width = (OURS, 2.5) if system == "fused" else (None, 1)
        axes.plot(own, [found[name] for name in own], "o-", label=system, color=colour, linewidth=width, markersize=3)
    axes.tick_params("x", labelsize=6)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _diagonal(axes: Axes, bins: Mapping[str, list[float | None]]) -> None:
    """Draw the reliability diagram: what was predicted against what happened, the dots' size by events."""
    known = [
        (p, share, n)
        for p, share, n in zip(bins["predicted"], bins["happened"], bins["events"], strict=True)
        if p is not None and share is not None and n
    ]
    most = max((n for _, _, n in known), default=1)
    axes.plot([0, 1], [0, 1], color=THEIRS, linewidth=1)
    axes.scatter(
        [p for p, _, _ in known], [s for _, s, _ in known], s=[8 + 80 * n / most for _, _, n in known], color=OURS
    )
    axes.set(xlabel="predicted", ylabel="happened", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
