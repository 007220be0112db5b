"""Fill the tables of README.md, docs/ and benchmarks/README.md from benchmarks/results/*.json.

A table stands between `<!-- table:NAME VIEW -->` and `<!-- /table -->`; NAME is the result file's, VIEW one of
`stages`, `systems`, `control`, `ablation`, `tiers`, `latency`. Without the file the text says "not yet measured".
`--check` writes nothing and exits with 1 when a document is not up to date.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtrec_edge_runtime.errors import InputError, MtrecError
from mtrec_edge_runtime.results import STAGES, Kept, Measured, Result, StageResult, read_result

RELATIVE = ", relative"  # ends the name of a system that holds relative changes
ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) (?P<view>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
LATENCY_TOKENS = "32"  # the length whose latency stands in the stage table
TEACHER_CATALOGUE = ", catalogue=teacher"  # of a system's name: item vectors by the teacher, texts by the stage itself


def fill(text: str, results: Path) -> str:
    """Return a document with every marked table made anew from the files in `results`."""

    def replace(match: re.Match[str]) -> str:
        return match[1] + table(results / f"{match['name']}.json", match["view"]) + match[4]

    return MARKED.sub(replace, text)


def table(path: Path, view: str) -> str:
    """Return one view of a result file as Markdown, with a line that says where it comes from."""
    if view not in VIEWS:
        raise InputError(f"table view {view!r}: the views are {', '.join(VIEWS)}")
    if not path.exists():
        return f"_Not yet measured: `benchmarks/results/{path.name}` does not exist._\n"
    result = read_result(path)
    machine = result["machine"]
    origin = f"`{path.name}`: {result['created'][:10]}, commit {result['commit']}, {machine['cpu']}"
    taken = f", {sum(result['seconds'].values()) / 60:.1f} minutes in all" if "seconds" in result else ""
    return f"{VIEWS[view](result)}\n{origin}, {machine['cores']} cores, seeds {result['seeds']}{taken}.\n"


def stages_table(result: Result) -> str:
    """Return a row a task with its metric after each stage and what INT8 keeps of the teacher; then bytes and time.

    A second row a task, where it was measured, has the catalogue's vectors encoded by the teacher.
    """
    stages = {name: result["stages"][name] for name in STAGES if name in result.get("stages", {})}
    if not stages:
        raise InputError(f"result {result['name']} has no stages: use another view")
    judged = "int8_fast" if "int8_fast" in stages else list(stages)[-1]
    rows = []
    for task in dict.fromkeys(task for stage in stages.values() for task in stage["tasks"]):
        metric = _headline(result, task, list(stages.values()))
        values = [stage["tasks"].get(task, {}).get(metric) for stage in stages.values()]
        rows.append(_task_row(f"{task} ({metric})", values, _kept(result, task, judged)))
        known = [_system_value(result, name + TEACHER_CATALOGUE, f"{task} {metric}") for name in stages]
        if any(value is not None for value in known):
            rows.append(_task_row("- catalogue by the teacher", known, _kept(result, task, judged + TEACHER_CATALOGUE)))
    sizes = [_number(_megabytes(stage.get("size_bytes")), 1) for stage in stages.values()]
    times = [_number(stage.get("latency_ms", {}).get(LATENCY_TOKENS, {}).get("p50"), 2) for stage in stages.values()]
    rows += [["graphs, MB", *sizes, ""], [f"one text of {LATENCY_TOKENS} tokens, ms (p50)", *times, ""]]
    return _markdown(["task", *stages, f"{judged} keeps of teacher"], rows)


def _task_row(title: str, values: Sequence[float | None], kept: float | None) -> list[str]:
    return [title, *(_number(value, 3) for value in values), "" if kept is None else f"{100 * kept:.1f} %"]


def _kept(result: Result, task: str, measured: str) -> float | None:
    """Return the share of the teacher's metric that a stage keeps, None where it was not judged."""
    return result.get("retention", {}).get(measured, {}).get(task)


def _system_value(result: Result, system: str, metric: str) -> float | None:
    found = result.get("systems", {}).get(system, {}).get(metric)
    return None if found is None else found["value"]


def systems_table(result: Result) -> str:
    """Return a row a system, a column a metric, with 95 % intervals; of tasks with a headline metric that one alone."""
    systems = result.get("systems", {})
    headlines = {f"{task} {metric}" for task, metric in result.get("headlines", {}).items()}
    metrics = dict.fromkeys(metric for measured in systems.values() for metric in measured)
    shown = [metric for metric in metrics if not headlines or metric in headlines]
    rows = [[system, *(_interval(measured.get(metric)) for metric in shown)] for system, measured in systems.items()]
    return _markdown(["system", *shown], [row for row in rows if any(row[1:])])


def control_table(result: Result) -> str:
    """Return a row a metric: alone, together, the relative change, the paired gain of users or texts; then Delta_m."""
    if "relative change" not in result.get("systems", {}):
        raise InputError(f"result {result['name']} is of no control: use another view")
    rows = _changes(result, "single", "multi", "relative change")
    return _markdown(["task", "alone", "together", "change", "gain on the same users or texts", "p (Holm)"], rows)


def ablation_table(result: Result) -> str:
    """Return the rows of `control`, for each change of a setting."""
    changed = [name.removesuffix(RELATIVE) for name in result.get("systems", {}) if name.endswith(RELATIVE)]
    if not changed:
        raise InputError(f"result {result['name']} is of no ablation: use another view")
    rows = [[f"`{name}`", *row] for name in changed for row in _changes(result, "as is", name, name + RELATIVE)]
    header = ["change", "task", "as is", "changed", "change", "gain on the same users or texts", "p (Holm)"]
    return _markdown(header, rows)


def _changes(result: Result, first: str, second: str, relative: str) -> list[list[str]]:
    """Return a row a metric that two systems share, with the gain of the second over the first."""
    systems = result["systems"]
    gains = {_about(metric): (metric.split(" ")[1], found) for metric, found in systems[f"{second} - {first}"].items()}
    rows = []
    for metric in dict.fromkeys([*systems[first], *systems[relative]]):  # the last is `delta_m`, of no system
        change = systems[relative].get(metric)  # none where the first value is 0
        values = [_interval(systems[name].get(metric)) for name in (first, second)]
        of, gain = gains.get(_about(metric), ("", None))
        paired = [f"{of} {_interval(gain)}", f"{gain['p']:.3f}"] if gain else ["", ""]
        rows.append([metric, *values, f"{change['value']:+.1%}" if change else "", *paired])
    return rows


def _about(metric: str) -> tuple[str, bool]:
    """Return which task a metric is of, and whether it is about strict cold items."""
    task, _, name = metric.partition(" ")
    return task, name.startswith("cold_")


def _interval(found: Measured | None) -> str:
    if found is None:
        return ""
    bounds = f" [{found['low']:.3f}, {found['high']:.3f}]" if "low" in found and "high" in found else ""
    return f"{found['value']:.3f}{bounds}"


def tiers_table(result: Result) -> str:
    """Return a row a tier: bytes and time with their ratios to BERT-base, and what it keeps of the teacher."""
    header = ["tier", "MB", "smaller than BERT-base", "ms a text", "faster than BERT-base"]
    header += ["kept on unseen texts: mean", "worst task", "kept on known items: mean", "worst task"]
    header += ["without a teacher: mean", "worst task", "certified"]
    rows = []
    for name, tier in result.get("tiers", {}).items():
        p50 = next(iter(tier["latency_ms"].values()))["p50"]
        cells = [f"{tier['size_bytes'] / 1e6:.2f}", f"{tier['size_ratio']:.0f} x", f"{p50:.3f}"]
        cells += [f"{tier['latency_ratio']:.0f} x", *_shares(tier["unseen"]), *_shares(tier["seen"])]
        cells += _shares(tier.get("untaught", {"tasks": {}}))
        rows.append([name, *cells, "yes" if tier["certified"] else "no"])
    if not rows:
        raise InputError(f"result {result['name']} has no tiers: use another view")
    return _markdown(header, rows)


def _shares(kept: Kept) -> list[str]:
    if not kept["tasks"]:
        return ["", ""]
    worst = min(kept["tasks"], key=kept["tasks"].__getitem__)
    of_worst = _percents(kept.get("intervals", {}).get(worst))
    return [
        f"{100 * kept['mean']:.1f} %{_percents(kept.get('mean_interval'))}",
        f"{100 * kept['worst']:.1f} %{of_worst} ({worst})",
    ]


def _percents(bounds: Sequence[float] | None) -> str:
    return f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else ""


def latency_table(result: Result) -> str:
    """Return a row a phase of each cell, in milliseconds; memory in MB."""
    rows = []
    for cell in result.get("cells", []):
        what = [str(cell["name"]), _cell_title(cell), str(cell["profile"]), str(cell["threads"])]
        for phase, times in cell.get("phases", {}).items():
            numbers = [_number(times.get(name), 2) for name in ("p50", "p90", "p95", "p99")]
            numbers += _own_core(cell.get("own_core", {}), phase)
            rows.append([*what, f"{phase}{' (noisy)' if cell.get('noisy') else ''}", *numbers])
        for part, size in cell.get("resident_bytes", {}).items():
            rows.append([*what, f"{part}, MB", _number(_megabytes(size), 1), *[""] * 6])
        if ratio := cell.get("speedup"):
            own = cell.get("own_core", {}).get("speedup")
            rows.append([*what, "times faster than it", _ratio(ratio), *[""] * 4, _ratio(own) if own else "", ""])
    header = ["bundle", "cell", "profile", "threads", "phase", "p50 ms", "p90", "p95", "p99"]
    if any("own_core" in cell for cell in result.get("cells", [])):
        return _markdown([*header, "own core: samples", "p50 ms", "p95"], rows)
    return _markdown(header, [row[: len(header)] for row in rows])


def _own_core(own: dict[str, Any], phase: str) -> list[str]:
    times = own.get("phases", {}).get(phase, {})
    share = f"{100 * own['share']:.0f} %" if "share" in own else ""
    return [share, _number(times.get("p50"), 2), _number(times.get("p95"), 2)]


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.1f} x [{ratio['low']:.1f}, {ratio['high']:.1f}]"


VIEWS: dict[str, Callable[[Result], str]] = {
    "stages": stages_table,
    "systems": systems_table,
    "control": control_table,
    "ablation": ablation_table,
    "tiers": tiers_table,
    "latency": latency_table,
}


def _cell_title(cell: dict[str, Any]) -> str:
    if cell["kind"] == "rank":
        return f"rank {cell['candidates']} of {cell['domain']}, all tasks"
    if cell["kind"] in ("cold_start", "memory"):
        return str(cell["kind"]).replace("_", " ")
    title = f"{cell['batch']} x {cell['tokens']} tokens"
    return f"{title}, beside {cell['against']}" if cell["kind"] == "against" else f"encode {title}"


def _headline(result: Result, task: str, stages: Sequence[StageResult]) -> str:
    measured = next(stage["tasks"][task] for stage in stages if task in stage["tasks"])
    return result.get("headlines", {}).get(task) or next(iter(measured), "")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _megabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Fill every document, or with `--check` say which ones are out of date."""
    documents = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    stale = []
    try:
        for path in documents:
            text = path.read_text(encoding="utf-8")
            if (filled := fill(text, ROOT / "benchmarks" / "results")) != text:
                stale.append(path.relative_to(ROOT))
                if "--check" not in arguments:
                    path.write_text(filled, encoding="utf-8")
    except MtrecError as error:
        print(error, file=sys.stderr)
        return 1
    if stale and "--check" in arguments:
        print(f"tables out of date in {', '.join(map(str, stale))}: run make tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
