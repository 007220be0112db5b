"""The page of several tiers, from a result written by hand."""

import re
from pathlib import Path
from typing import Any

import pytest
from test_compress_report import HOSTILE, MACHINE

from mtrec_edge_compress.tiers_report import milliseconds, pareto_front, tier_table, tiers_report, write_tiers_report


def tier(size: int, ms: float | None, mean: float, *, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {
        "size_bytes": size,
        "size_ratio": 4e8 / size,
        "latency_ratio": 120.0,
        "retention_mean": mean,
        "retention_worst": mean - 0.01,
        "seen": {"mean": mean, "worst": mean - 0.01, "tasks": {"movies.like": mean, HOSTILE: mean - 0.01}},
        "unseen": {"mean": mean - 0.02, "worst": mean - 0.03, "tasks": {"movies.like": mean - 0.02}},
        "certified": not reasons,
        "reasons": list(reasons),
        "bytes": {"embeddings": size // 4, "encoder": size // 2},
    }
    return found if ms is None else {**found, "latency_ms": {"32": {"p50": ms, "p95": 2 * ms}}}


def result(*, nano_ms: float | None = 0.25) -> dict[str, Any]:
    return {
        "name": "tiers",
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "",
        "command": "mtrec-edge compress --tiers small,nano",
        "machine": MACHINE,
        "seeds": [0],
        "dataset": {"name": "toy", "split_hash": "feed", "counts": {}},
        "tiers": {
            "small": tier(4_000_000, 0.5, 0.995),
            "nano": tier(1_600_000, nano_ms, 0.97, reasons=("<b>too low",)),
        },
    }


def test_the_page_has_a_line_a_tier_a_pareto_picture_and_the_reasons(tmp_path: Path) -> None:
    page = write_tiers_report(tmp_path, result()).read_text(encoding="utf-8")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    small = ["small", "4.00", "100", "0.500", "120", "99.5%", "98.5%", "97.5%", "96.5%", "-", "-", "yes"]
    assert small in rows
    assert [row[-1] for row in rows if row and row[0] == "nano"] == ["no"]
    assert ["movies.like", "99.5%", "97.0%"] in rows and ["movies.like", "97.5%", "95.0%"] in rows
    assert ["together", "3,000,000", "1,200,000"] in rows
    assert page.count("<svg") == 4 and "Not certified: nano." in page and "nano: &lt;b&gt;too low" in page
    assert "<script" not in page and not re.search(r'https?:(?!//www\.w3\.org/(2000/svg|1999/xlink)")', page)
    assert tiers_report(result()).html() == page


def test_shares_have_their_intervals_where_they_were_drawn() -> None:
    found = result()
    found["tiers"]["nano"]["unseen"] |= {"intervals": {"movies.like": [0.9, 1.0]}, "mean_interval": [0.92, 0.98]}
    (nano,) = (row for row in tier_table(found["tiers"]).rows if row[0] == "nano")
    assert nano[7:9] == ("95.0% [92.0%, 98.0%]", "94.0% [90.0%, 100.0%]")


def test_without_a_time_the_tiers_stand_by_how_many_times_faster_they_are() -> None:
    report = tiers_report(result(nano_ms=None))
    assert report.html().count("<svg") == 4
    assert "| nano  | 1.60 |           250 |     - |" in report.markdown()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [({"128": {"p50": 2.0}, "32": {"p50": 0.5}}, 0.5), ({"32": 0.5}, 0.5), ({"p50": 0.5, "p95": 1.0}, 0.5), (0.5, 0.5)],
)
def test_a_time_is_read_however_it_is_stored(stored: object, expected: float) -> None:
    assert milliseconds({"latency_ms": stored}) == expected
    assert milliseconds({}) is None


def test_a_tier_that_is_slower_and_worse_than_another_is_not_on_the_front() -> None:
    points = {"small": (0.9, 0.99), "tiny": (0.4, 0.98), "beaten": (0.5, 0.97), "nano": (0.2, 0.95)}
    assert pareto_front(points) == ["nano", "tiny", "small"]


def test_where_nothing_unseen_could_be_judged_the_cost_stands_alone() -> None:
    bare = result()
    for found in bare["tiers"].values():
        del found["retention_mean"], found["retention_worst"]
        found["unseen"] = {"tasks": {}}
    page = tiers_report(bare).html()
    assert page.count("<svg") == 2 and "small: 4.00 MB, 100x smaller and 120x faster than BERT-base" in page


def test_what_a_student_without_a_teacher_reaches_stands_beside() -> None:
    found = result()
    found["tiers"]["small"]["untaught"] = {"mean": 0.8, "worst": 0.5, "tasks": {"movies.like": 0.8}}
    assert "<td>80.0%</td><td>50.0%</td><td>yes</td>" in tiers_report(found).html().replace("\n", "")
