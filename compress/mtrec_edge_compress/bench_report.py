"""What a benchmark measured, as one HTML page: a text, a request, a cold start, and latency against quality.

Reads the result of `mtrec_edge_runtime.bench`; the page needs no other file and no network. Measures nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from mtrec_edge_compress.data.schema import HEADLINES, RANKED_HEADLINES
from mtrec_edge_compress.evaluate import ERRORS
from mtrec_edge_compress.page import PAGES, Section, Table
from mtrec_edge_compress.pictures import INK, LONGEST, MARKS, OURS, SECOND, THEIRS, picture
from mtrec_edge_runtime.machine import in_words
from mtrec_edge_runtime.whole_file import write_whole

Cell = Mapping[str, Any]
Result = Mapping[str, Any]
# what may stand for a task, in this order: a bundle states its metrics, not which of them is the headline
STANDING = tuple(dict.fromkeys((*RANKED_HEADLINES, *(name for names in HEADLINES.values() for name in names))))
START = ("process", "import", "load", "first_score")  # a cold start's parts, in the order of time
PERCENTILES = ("p50", "p90", "p95", "p99")
TOKENS = 32  # of the text whose time stands for a bundle; where none was measured, the nearest length

PAGE = PAGES.from_string("""{% extends "frame" %}{% from "parts" import grid, chapters %}
{% block content %}
{{ grid(facts, "facts") }}
{{ chapters(sections) }}
{% endblock %}
""")


def write_bench_report(path: Path, result: Result) -> None:
    """Write the page of a benchmark's result."""
    names = [bundle["name"] for bundle in result["bundles"]]
    sections = [made for make in (_texts, _requests, _starts, _quality) if (made := make(result)) is not None]
    page = PAGE.render(title=f"Latency of {', '.join(names)}", facts=_facts(result), sections=sections)
    write_whole(path, page + "\n")


def _facts(result: Result) -> Table:
    machine = result["machine"]
    noisy = sum(bool(cell.get("noisy")) for cell in result["cells"])
    rows = [
        ("Machine", in_words(machine)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
        ("Measured", f"{result['created']}, commit {result['commit'] or 'unknown'}"),
        ("Command", result["command"]),
        ("Noisy cells", f"{noisy} of {len(result['cells'])}"),
    ]
    rows += [(bundle["name"], f"{bundle['size_bytes'] / 1e6:.2f} MB") for bundle in result["bundles"]]
    return Table((), tuple(rows))


def _cells(result: Result, kind: str, **wanted: object) -> list[Cell]:
    """Return the cells of a kind on one thread."""
    return [
        cell
        for cell in result["cells"]
        if cell["kind"] == kind and cell["threads"] == 1 and all(cell[key] == value for key, value in wanted.items())
    ]


def _texts(result: Result) -> Section | None:
    """Show the time of one text by its length."""
    lines: dict[str, dict[int, Mapping[str, float]]] = {}
    for cell in _cells(result, "encode", batch=1):
        lines.setdefault(f"{cell['name']}, {cell['profile']}", {})[cell["tokens"]] = cell["phases"]["total"]
    for cell in _cells(result, "against"):
        name = f"{cell['against']} beside {cell['name']}" if len(result["bundles"]) > 1 else cell["against"]
        lines.setdefault(name, {})[cell["tokens"]] = cell["phases"]["against"]
    if not lines:
        return None
    rows = [
        (name, str(tokens), *_percentiles(times))
        for name, found in lines.items()
        for tokens, times in sorted(found.items())
    ]

    def draw(axes: Axes) -> None:
        for number, (name, found) in enumerate(lines.items()):
            tokens = sorted(found)
            colour = OURS if name.endswith(", fast") else SECOND if name.endswith(", exact") else THEIRS
            axes.plot(tokens, [found[n]["p50"] for n in tokens], f"{MARKS[number % len(MARKS)]}-", color=colour,
                      label=_label(name), markersize=4)  # fmt: skip
            axes.vlines(tokens, [found[n]["p50"] for n in tokens], [found[n]["p95"] for n in tokens], color=colour)
        axes.set(xlabel="tokens", ylabel="ms, p50 and up to p95", yscale="log")
        axes.set_xticks(sorted({tokens for found in lines.values() for tokens in found}))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # no formulas
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)

    head = ("encoder", "tokens", "p50 ms", *PERCENTILES[1:])
    text = "One text on one thread, tokenised and encoded; what stands beside a bundle is its graph alone."
    return Section(
        "One text", text, (Table(head, tuple(rows)),), (picture("One text, by its length", draw, (5.2, 3.6)),)
    )


def _requests(result: Result) -> Section | None:
    """Show the time of one ranking."""
    found = {}
    for cell in _cells(result, "rank", profile="fast"):
        for phase, times in cell["phases"].items():
            with_text = " and a new text" if "new" in phase else ""
            found[f"{_label(cell['name'])}, {cell['domain']}, {cell['candidates']:,}{with_text}"] = times
    if not found:
        return None
    rows = [(name, *_percentiles(times)) for name, times in found.items()]
    table = Table(("bundle, domain, candidates", "p50 ms", *PERCENTILES[1:]), tuple(rows))

    def draw(axes: Axes) -> None:
        places = range(len(found))
        axes.barh(places, [times["p50"] for times in found.values()], color=OURS, height=0.66)
        for place, times in zip(places, found.values(), strict=True):
            axes.plot([times["p50"], times["p95"]], [place, place], color=INK, linewidth=1)
        named = (name if len(result["bundles"]) > 1 else name.partition(", ")[2] for name in found)
        axes.set_yticks(places, list(named), fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("ms, p50 and up to p95")

    text = "One user's candidates ranked on one thread, profile fast; then the same with one event that is a new text."
    size = (5.2, 1.2 + 0.28 * len(found))
    return Section("One request", text, (table,), (picture("One ranking", draw, size),))


def _starts(result: Result) -> Section | None:
    """Show how long a process takes to its first answer."""
    found = {f"{cell['name']}, {cell['profile']}": cell["phases"] for cell in _cells(result, "cold_start")}
    if not found:
        return None
    rows = [(name, *(f"{phases[part]['p50']:.1f}" for part in (*START, "total"))) for name, phases in found.items()]

    def draw(axes: Axes) -> None:
        begun = [0.0] * len(found)
        for part, colour in zip(START, (THEIRS, SECOND, OURS, INK), strict=True):
            lengths = [phases[part]["p50"] for phases in found.values()]
            axes.barh(range(len(found)), lengths, left=begun, color=colour, height=0.6, label=part.replace("_", " "))
            begun = [start + length for start, length in zip(begun, lengths, strict=True)]
        axes.set_yticks(range(len(found)), [_label(name) for name in found])
        axes.invert_yaxis()
        axes.set_xlabel("ms, medians")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    table = Table(("bundle, profile", *(part.replace("_", " ") for part in START), "total"), tuple(rows))
    size = (5.2, 1.4 + 0.35 * len(found))
    text = "From the start of a process to its first ranking."
    return Section("Cold start", text, (table,), (picture("Cold start", draw, size),))


def _quality(result: Result) -> Section | None:
    """Show latency against quality, of several bundles that were judged on one split."""
    bundles = {bundle["name"]: bundle for bundle in result["bundles"]}
    if len(bundles) < 2:
        return None
    cells = [cell for cell in _cells(result, "encode", batch=1, profile="fast") if cell["name"] in bundles]
    measured = [{cell["tokens"] for cell in cells if cell["name"] == name} for name in bundles]
    lengths = set.intersection(*measured)
    shares = quality_shares([bundle["quality"] for bundle in bundles.values()])
    if len(set(result["dataset"]["split_hash"].split())) > 1:
        return Section("Latency against quality", "Not drawn: the bundles were judged on different splits.", ())
    if not (lengths and shares):
        return Section("Latency against quality", "Not drawn: no length or no task is common to the bundles.", ())
    tokens = min(lengths, key=lambda length: abs(length - TOKENS))
    times = {cell["name"]: cell["phases"]["total"]["p50"] for cell in cells if cell["tokens"] == tokens}
    rows = [
        (name, f"{bundle['size_bytes'] / 1e6:.2f}", f"{times[name]:.3f}", f"{share:.1%}")
        for (name, bundle), share in zip(bundles.items(), shares, strict=True)
    ]
    largest = max(bundle["size_bytes"] for bundle in bundles.values())

    def draw(axes: Axes) -> None:
        for (name, bundle), share in zip(bundles.items(), shares, strict=True):
            axes.scatter([times[name]], [share], s=40 + 260 * bundle["size_bytes"] / largest, color=OURS)
            axes.annotate(_label(name), (times[name], share), (11, 0), textcoords="offset points", va="center")
        axes.set(xlabel=f"ms a text of {tokens} tokens, p50", ylabel="quality, the first bundle being 100 %")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.margins(x=0.3, y=0.2)

    text = (
        "Quality is the mean over the tasks that every bundle states, each relative to the first bundle's; a dot is as "
        "large as the files. It is as good as what the bundles' manifests say: `mtrec-edge evaluate` judges anew."
    )
    table = Table(("bundle", "MB", "ms", "quality"), tuple(rows))
    return Section("Latency against quality", text, (table,), (picture("Latency against quality", draw),))


def quality_shares(qualities: Sequence[Mapping[str, Mapping[str, float]]]) -> list[float]:
    """Return each bundle's mean headline relative to the first's, over the tasks that all state; [] where none is.

    An error counts the other way round: half of it is 200 %.
    """
    ratios: list[list[float]] = []
    for task, first in qualities[0].items():
        metric = next((name for name in STANDING if name in first), None)
        values = [quality.get(task, {}).get(metric or "") for quality in qualities]
        known = [value for value in values if value]  # 0 has no ratio
        if len(known) == len(qualities):
            ratios.append([known[0] / value if metric in ERRORS else value / known[0] for value in known])
    return [sum(column) / len(column) for column in zip(*ratios, strict=True)]


def _percentiles(times: Mapping[str, float]) -> list[str]:
    return [f"{times[key]:.3f}" for key in PERCENTILES]


def _label(name: str) -> str:
    """Return the end of a name that is too long for a picture: bundles of one name differ by their folders."""
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
