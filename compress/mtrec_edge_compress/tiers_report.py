"""Several sizes of one model side by side, as a page and as Markdown: what each costs, what it keeps, the Pareto set.

Reads a result file with `tiers` (tier -> size_bytes, size_ratio, latency_ratio, retention_mean, retention_worst, seen,
unseen, certified, reasons, bytes, latency_ms). Measures nothing.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mtrec_edge_compress.page import Report, Section, Table, write_report
from mtrec_edge_compress.pictures import INK, MARKS, OURS, SECOND, WIDE, picture, short
from mtrec_edge_runtime.machine import in_words

Tiers = Mapping[str, Mapping[str, Any]]
FOLDS = {"seen": "texts the student learned from", "unseen": "texts the student never saw"}


def write_tiers_report(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write `tiers.html` and `tiers.md` into `folder`; return the page's path."""
    write_report(folder, tiers_report(result), "tiers")
    return folder / "tiers.html"


def tiers_report(result: Mapping[str, Any]) -> Report:
    """Return what the report says."""
    tiers: Tiers = result["tiers"]
    missed = [name for name, tier in tiers.items() if not tier["certified"]]
    return Report(
        title=f"{result['name']}: {', '.join(tiers)}",
        certified=not missed,
        verdict=f"Not certified: {', '.join(missed)}." if missed else "Every tier is certified.",
        summary="; ".join(_summary(name, tier) for name, tier in tiers.items()) + ".",
        reasons=tuple(f"{name}: {reason}" for name, tier in tiers.items() for reason in tier.get("reasons", ())),
        facts=_facts(result),
        sections=(
            Section(
                "Size and speed against quality",
                "The dot is the mean over the tasks, as large as the files; the line reaches down to the worst task. "
                "A tier is worth having (dotted line) when no other is both faster and keeps more.",
                (tier_table(tiers),),
                tuple(drawn for drawn in (pareto_picture(tiers), fold_picture(tiers)) if drawn),
            ),
            *_tasks(tiers),
            *_components(tiers),
        ),
        notes=tuple(result.get("notes", ())),
    )


def _summary(name: str, tier: Mapping[str, Any]) -> str:
    cost = (
        f"{name}: {tier['size_bytes'] / 1e6:.2f} MB, {tier['size_ratio']:.3g}x smaller and "
        f"{tier['latency_ratio']:.3g}x faster than BERT-base"
    )
    if "retention_mean" not in tier:  # nothing unseen could be judged
        return cost
    return f"{cost}, keeps {tier['retention_mean']:.1%} on unseen texts, worst task {tier['retention_worst']:.1%}"


def _facts(result: Mapping[str, Any]) -> Table:
    data, machine = result["dataset"], result["machine"]
    return Table(
        (),
        (
            ("Data", f"{data['name']}, split {data['split_hash']}"),
            ("Seed", ", ".join(map(str, result["seeds"]))),
            ("Made", f"{result['created']}, commit {result['commit'] or 'unknown'}"),
            ("Command", result["command"]),
            ("Machine", in_words(machine)),
        ),
    )


def tier_table(tiers: Tiers) -> Table:
    """Return a line a tier."""
    rows = []
    for name, tier in tiers.items():
        taken = milliseconds(tier)
        row = [name, f"{tier['size_bytes'] / 1e6:.2f}", f"{tier['size_ratio']:.3g}"]
        row += ["-" if taken is None else f"{taken:.3f}", f"{tier['latency_ratio']:.3g}"]
        row += [cell for fold in (*FOLDS, "untaught") for cell in _shares(tier.get(fold, {}))]
        rows.append((*row, "yes" if tier["certified"] else "no"))
    head = ("tier", "MB", "times smaller", "ms", "times faster", "seen, mean", "worst", "unseen, mean", "worst")
    return Table((*head, "without a teacher, mean", "worst", "certified"), tuple(rows))


def _shares(kept: Mapping[str, Any]) -> tuple[str, str]:
    """Return mean and worst share, with their 95 % intervals where there are any."""
    if not kept.get("tasks"):
        return "-", "-"
    worst = min(kept["tasks"], key=kept["tasks"].__getitem__)
    bounds = (kept.get("mean_interval"), kept.get("intervals", {}).get(worst))
    mean, least = (f" [{both[0]:.1%}, {both[1]:.1%}]" if both else "" for both in bounds)
    return f"{kept['mean']:.1%}{mean}", f"{kept['worst']:.1%}{least}"


def milliseconds(tier: Mapping[str, Any]) -> float | None:
    """Return the median time of one text, of the shortest length where several were timed; None without any."""
    taken = tier.get("latency_ms")
    if isinstance(taken, Mapping):
        taken = taken[min(taken, key=int)] if taken and "p50" not in taken else taken
        taken = taken.get("p50") if isinstance(taken, Mapping) else taken
    return None if taken is None else float(taken)


def pareto_picture(tiers: Tiers) -> str:
    """Draw time against retention; where a time is not known, all stand by how many times faster they are.

    Tiers of which nothing unseen could be judged are left out; without any other there is no picture, "".
    """
    tiers = {name: tier for name, tier in tiers.items() if "retention_mean" in tier}
    if not tiers:
        return ""
    taken = {name: milliseconds(tier) for name, tier in tiers.items()}
    timed = all(value is not None for value in taken.values())
    place = {name: float(taken[name] or 0) if timed else tiers[name]["latency_ratio"] for name in tiers}
    largest = max(tier["size_bytes"] for tier in tiers.values())

    def draw(axes: Axes) -> None:
        front = pareto_front({name: (x if timed else -x, tiers[name]["retention_mean"]) for name, x in place.items()})
        line = [(place[name], tiers[name]["retention_mean"]) for name in front]
        axes.plot([x for x, _ in line], [y for _, y in line], ":", color=INK, linewidth=1)
        for name, tier in tiers.items():
            x, mean, worst = place[name], tier["retention_mean"], tier["retention_worst"]
            axes.plot([x, x], [worst, mean], color=OURS, linewidth=1.2)
            axes.plot([x], [worst], "_", color=OURS, markersize=9)
            axes.scatter([x], [mean], s=40 + 260 * tier["size_bytes"] / largest, color=OURS, zorder=3)
            label = f"{name}\n{tier['size_bytes'] / 1e6:.2f} MB"
            axes.annotate(label, (x, mean), (11, 0), textcoords="offset points", va="center", color=INK)
        axes.set(xlabel="ms a text" if timed else "times faster than BERT-base", ylabel="kept of the teacher")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.margins(x=0.3, y=0.2)
        if not timed:
            axes.invert_xaxis()  # better is left and up, as with times

    return picture("Latency against quality: the Pareto set", draw)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names that no other beats in both, cost (less is better) and quality, cheapest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def fold_picture(tiers: Tiers) -> str:
    """Draw each tier's mean and worst task on seen and on unseen texts."""

    def draw(axes: Axes) -> None:
        for fold, colour, mark, shift in (("seen", OURS, "o", -0.12), ("unseen", SECOND, "s", 0.12)):
            found = [(p + shift, tier[fold]) for p, tier in enumerate(tiers.values()) if "mean" in tier.get(fold, {})]
            for x, kept in found:
                axes.plot([x, x], [kept["worst"], kept["mean"]], color=colour, linewidth=1.2)
                axes.plot([x], [kept["worst"]], "_", color=colour, markersize=9)
            axes.plot([x for x, _ in found], [k["mean"] for _, k in found], mark, color=colour, label=FOLDS[fold])
        axes.set_xticks(range(len(tiers)), list(tiers))
        axes.margins(x=0.3, y=0.2)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.3), ncols=2)

    return picture("Seen and unseen texts: mean, and down to the worst task", draw)


def _tasks(tiers: Tiers) -> list[Section]:
    """Return what each tier keeps of each task, a table for seen and one for unseen texts."""
    tables, pictures = [], []
    for fold, what in FOLDS.items():
        kept = {name: tier.get(fold, {}).get("tasks", {}) for name, tier in tiers.items()}
        tasks = list(dict.fromkeys(task for shares in kept.values() for task in shares))
        if tasks:
            rows = [(task, *(f"{s[task]:.1%}" if task in s else "-" for s in kept.values())) for task in tasks]
            tables.append(Table((what, *kept), tuple(rows)))
            pictures.append(_task_picture(f"Kept of the teacher, {what}", kept, tasks))
    text = "Share of the teacher's headline metric above chance, on the test fold."
    return [Section("Task by task", text, tuple(tables), tuple(pictures))] if tables else []


def _task_picture(title: str, kept: Mapping[str, Mapping[str, float]], tasks: list[str]) -> str:

    def draw(axes: Axes) -> None:
        axes.axvline(1, color=INK, linewidth=1)
        for number, (tier, shares) in enumerate(kept.items()):
            rows = [(shares[task], place) for place, task in enumerate(tasks) if task in shares]
            shade = 1 - 0.65 * number / max(len(kept) - 1, 1)  # told apart by mark and by darkness
            mark = MARKS[number % len(MARKS)]
            axes.plot([x for x, _ in rows], [y for _, y in rows], mark, color=OURS, alpha=shade, label=tier)
        axes.set_yticks(range(len(tasks)), [short(task) for task in tasks])
        axes.invert_yaxis()
        axes.grid(axis="y", color="#e3e7ea", linewidth=0.8)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return picture(title, draw, (WIDE, 1.0 + 0.3 * len(tasks)))


def _components(tiers: Tiers) -> list[Section]:
    """Return the bytes of each tier's encoder by component."""
    parts = {name: tier["bytes"] for name, tier in tiers.items() if isinstance(tier.get("bytes"), Mapping)}
    names = list(dict.fromkeys(part for found in parts.values() for part in found))
    rows = [(part, *(f"{found.get(part, 0):,}" for found in parts.values())) for part in names]
    if not rows:
        return []
    rows.append(("together", *(f"{math.fsum(found.values()):,.0f}" for found in parts.values())))
    return [Section("Bytes by component", "Of the encoder that ships.", (Table(("component", *parts), tuple(rows)),))]
