"""What a `compress` run did, as `report.html` and `report.md`: certified or why not, what each stage cost and kept.

Reads the ledger as a result file, the verdict and the byte ledger. Measures nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrec_edge_compress.compress_pictures import (
    component_picture,
    duration,
    latency_pictures,
    quality_picture,
    retention_picture,
    seconds_picture,
    size_picture,
)
from mtrec_edge_compress.page import Report, Section, Table, text_bar, write_report
from mtrec_edge_compress.verify import Verdict
from mtrec_edge_runtime.machine import in_words

SHIPPED = "int8_fast"  # the stage a device runs
OF_TEACHER = ", catalogue=teacher"  # ends the name of a stage that is judged with the teacher's item vectors
FIGURES = {"loss": ".2%", "loss_low": ".2%"}  # of the INT8 step; the others as numbers


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    ledger: Mapping[str, Any]  # a result with `stages`, `seconds` and `retention`
    verdict: Verdict
    components: Mapping[str, int]  # bytes of the shipped encoder by component
    teacher: str  # hub id or folder the teacher came from


def write_compress_report(folder: Path, outcome: Outcome) -> Path:
    """Write `report.html` and `report.md` into `folder`; return the page's path."""
    write_report(folder, compress_report(outcome))
    return folder / "report.html"


def compress_report(outcome: Outcome) -> Report:
    """Return what the report says."""
    ledger, verdict = outcome.ledger, outcome.verdict
    return Report(
        title=f"{ledger['name']}: what was compressed, and what was kept",
        certified=verdict.certified,
        verdict="Certified." if verdict.certified else "Not certified: the bundle misses the limits of its recipe.",
        summary=_summary(ledger),
        reasons=verdict.reasons,
        facts=_facts(outcome),
        sections=(
            Section(
                "Cost by stage",
                "Size is that of encoder, text heads and ranker as files. Latency is one text through the encoder, one "
                "thread, all stages in one window; a line under a bar reaches from the median to the 95th percentile.",
                (cost_table(ledger),),
                (size_picture(ledger), *latency_pictures(ledger)),
            ),
            _quality(ledger),
            *_int8(verdict),
            Section(
                "Bytes and time",
                "Bytes of encoder and text heads that ship. A stage's time is that of its last run to the end.",
                (_shares("component", outcome.components, "{:,.0f}", "bytes"), _times(ledger["seconds"])),
                (component_picture(outcome.components), seconds_picture(ledger["seconds"])),
            ),
        ),
        notes=tuple(ledger.get("notes", ())),
    )


def _summary(ledger: Mapping[str, Any]) -> str:
    """Return the figures of what ships, beside the teacher's, in a sentence."""
    stages = ledger["stages"]
    if SHIPPED not in stages or "teacher" not in stages:
        return ""
    now, first = stages[SHIPPED], stages["teacher"]
    parts = [f"{now['size_bytes'] / 1e6:.2f} MB, {first['size_bytes'] / now['size_bytes']:.3g} times smaller"]
    for tokens, ms in now.get("latency_ms", {}).items():
        if tokens in first.get("latency_ms", {}):
            faster = first["latency_ms"][tokens]["p50"] / ms["p50"]
            parts.append(f"{ms['p50']:.2f} ms at {tokens} tokens, {faster:.3g} times faster")
    for name, what in ((SHIPPED, "by its own vectors"), (SHIPPED + OF_TEACHER, "on known items")):
        kept = ledger.get("retention", {}).get(name)
        if kept:
            worst = min(kept, key=lambda task: kept[task])
            mean = math.fsum(kept.values()) / len(kept)
            parts.append(f"keeps {mean:.1%} of the teacher {what}, worst {kept[worst]:.1%} ({worst})")
    return f"{SHIPPED} against the teacher: {'; '.join(parts)}."


def _facts(outcome: Outcome) -> Table:
    ledger, machine = outcome.ledger, outcome.ledger["machine"]
    data = ledger["dataset"]
    counts = ", ".join(f"{count:,} {what}" for what, count in data["counts"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return Table(
        (),
        (
            ("Data", f"{data['name']}, split {data['split_hash']}: {counts}"),
            ("Teacher", outcome.teacher),
            ("Seed", ", ".join(map(str, ledger["seeds"]))),
            ("Made", f"{ledger['created']}, commit {ledger['commit'] or 'unknown'}"),
            ("Command", ledger["command"]),
            ("Machine", f"{in_words(machine)}; {versions}"),
        ),
    )


def cost_table(ledger: Mapping[str, Any]) -> Table:
    """Return a line a stage: parameters, bytes, times, each beside the first stage's."""
    stages: Mapping[str, Any] = ledger["stages"]
    first = next(iter(stages.values()))
    lengths = dict.fromkeys(tokens for found in stages.values() for tokens in found.get("latency_ms", {}))
    head = ["stage", "parameters", "MB", "times smaller"]
    for tokens in lengths:
        head += [f"ms at {tokens} tokens", "p95", "times faster"]
    rows = []
    for stage, found in stages.items():
        row = [stage, f"{found['parameters']:,}" if "parameters" in found else "-"]
        row += _ratio(found.get("size_bytes"), first.get("size_bytes"), unit=1e6)
        for tokens in lengths:
            ms, before = found.get("latency_ms", {}).get(tokens, {}), first.get("latency_ms", {}).get(tokens, {})
            median, ratio = _ratio(ms.get("p50"), before.get("p50"))
            row += [median, f"{ms['p95']:.2f}" if "p95" in ms else "-", ratio]
        rows.append((*row, duration(found["seconds"]) if "seconds" in found else "-"))
    return Table((*head, "time"), tuple(rows))


def _ratio(value: float | None, first: float | None, unit: float = 1) -> list[str]:
    if value is None:
        return ["-", "-"]
    return [f"{value / unit:.2f}", f"{first / value:.3g}" if first and value else "-"]


def _quality(ledger: Mapping[str, Any]) -> Section:
    retention: Mapping[str, Mapping[str, float]] = ledger.get("retention", {})
    own = {stage: kept for stage, kept in retention.items() if not stage.endswith(OF_TEACHER)}
    known = {stage.removesuffix(OF_TEACHER): kept for stage, kept in retention.items() if stage.endswith(OF_TEACHER)}
    tables = [_retention_table(own, "own item vectors"), metric_table(ledger, "")]
    pictures = [quality_picture(own, known)] if own else []
    if known:
        tables.insert(1, _retention_table(known, "known items"))
    if SHIPPED in own:
        pictures.insert(0, retention_picture(own[SHIPPED], known.get(SHIPPED, {})))
    cold = metric_table(ledger, "cold_")
    return Section(
        "Quality by stage",
        "Kept: the share of the teacher's headline metric above chance, on the test fold. A catalogue may hold the "
        "teacher's item vectors (known items); texts first met on the device have the student's own. Metrics named "
        "cold_ are those of items that no training saw.",
        tuple(table for table in (*tables, cold) if table.rows),
        tuple(pictures),
    )


def _retention_table(kept: Mapping[str, Mapping[str, float]], what: str) -> Table:
    """Return a line a task and a column a stage, then the mean and the worst."""
    tasks = list(dict.fromkeys(task for shares in kept.values() for task in shares))
    rows = [(task, *(f"{kept[stage][task]:.1%}" if task in kept[stage] else "-" for stage in kept)) for task in tasks]
    if kept:
        rows.append(("mean", *(f"{math.fsum(shares.values()) / len(shares):.1%}" for shares in kept.values())))
        rows.append(("worst", *(f"{min(shares.values()):.1%}" for shares in kept.values())))
    return Table((f"kept, {what}", *kept), tuple(rows))


def metric_table(ledger: Mapping[str, Any], prefix: str) -> Table:
    """Return a line a task and a column a stage: the headline metric, or that of `prefix` before its name."""
    rows = []
    for task, headline in ledger.get("headlines", {}).items():
        metric = prefix + headline
        values = [found["tasks"].get(task, {}).get(metric) for found in ledger["stages"].values()]
        if any(value is not None for value in values):
            rows.append((f"{task} {metric}", *("-" if value is None else f"{value:.4f}" for value in values)))
    return Table(("own item vectors", *ledger["stages"]), tuple(rows))


def _int8(verdict: Verdict) -> list[Section]:
    """Return what was measured between the FP32 graph and each INT8 profile."""
    tables = []
    for profile in ("fast", "exact"):
        figures: Mapping[str, Mapping[str, float]] = verdict.measured.get(profile, {})
        names = list(dict.fromkeys(name for found in figures.values() for name in found))
        rows = [(task, *(_figure(name, found.get(name)) for name in names)) for task, found in figures.items()]
        if names:
            tables.append(Table((f"INT8 {profile}", *(name.replace("_", " ") for name in names)), tuple(rows)))
    difference = verdict.measured.get("torch_fp32")
    text = "" if difference is None else f"Torch and FP32 ONNX differ by at most {difference:.2g}. "
    text += "Loss: of the FP32 graph's headline metric above chance; below zero, INT8 is ahead."
    return [Section("INT8 beside FP32", text, tuple(tables))] if tables else []


def _figure(name: str, value: float | None) -> str:
    return "-" if value is None else format(value, FIGURES.get(name, ".3f"))


def _shares(what: str, parts: Mapping[str, float], form: str, unit: str) -> Table:
    whole = math.fsum(parts.values()) or 1
    rows = tuple(
        (name, form.format(value), f"{value / whole:.0%}", text_bar(value / whole)) for name, value in parts.items()
    )
    return Table((what, unit, "share", ""), rows)


def _times(seconds: Mapping[str, float]) -> Table:
    return _shares("stage", seconds, "{:,.1f}", "seconds")
