"""The report of a `compress` run, from a ledger written by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtrec_edge_compress.compress_report import Outcome, compress_report, write_compress_report
from mtrec_edge_compress.verify import Verdict

LIKE, GENRE = "movies.like", "movies.genre"
HOSTILE = "movies.<script>alert('x')</script>"
MACHINE = {"cpu": "Any CPU", "flags": ["avx2"], "cores": 2, "versions": {"onnxruntime": "1.32.0"}}


def stage(size: int, p50: float, ndcg: float, *, like: str = LIKE) -> dict[str, Any]:
    return {
        "tasks": {like: {"ndcg@10": ndcg, "cold_ndcg@10": ndcg / 2}, GENRE: {"macro_f1": 0.5}},
        "size_bytes": size,
        "parameters": size // 4,
        "seconds": 90.0,
        "latency_ms": {"32": {"p50": p50, "p95": 1.5 * p50}},
    }


def outcome(*, certified: bool = True, like: str = LIKE) -> Outcome:
    ledger = {
        "name": "tiny",
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "abc123",
        "command": "mtrec-edge compress tiny.toml",
        "machine": MACHINE,
        "seeds": [7],
        "dataset": {"name": "toy", "split_hash": "feed", "counts": {"users": 1234}},
        "stages": {
            "teacher": stage(80_000_000, 8.0, 0.40, like=like),
            "student": stage(20_000_000, 4.0, 0.36, like=like),
            "int8_fast": stage(4_000_000, 0.5, 0.38, like=like),
        },
        "retention": {
            "teacher": {like: 1.0, GENRE: 1.0},
            "student": {like: 0.9, GENRE: 1.0},
            "int8_fast": {like: 0.95, GENRE: 1.01},
            "int8_fast, catalogue=teacher": {like: 0.99, GENRE: 1.01},
        },
        "seconds": {"teacher": 600.0, "prune": 200.0},
        "headlines": {like: "ndcg@10", GENRE: "macro_f1"},
        "notes": ["a note"],
    }
    measured = {"torch_fp32": 3e-6, "fast": {like: {"loss": -0.002, "top10_overlap": 0.9712}}, "exact": {like: {}}}
    reasons = () if certified else (f"{like}: too little is kept; the next step: longer distillation",)
    components = {"embeddings": 1_500_000, "encoder": 2_500_000}
    return Outcome(ledger, Verdict(certified, reasons, measured), components, "a/b")


@pytest.fixture(scope="module")
def page() -> str:
    return compress_report(outcome()).html()


def test_the_page_holds_what_was_compressed_and_every_figure(page: str) -> None:
    for text in ("toy, split feed: 1,234 users", "a/b", "commit abc123", "Any CPU, 2 cores", "Certified.", "a note"):
        assert text in page
    summary = "4.00 MB, 20 times smaller; 0.50 ms at 32 tokens, 16 times faster; keeps 98.0% of the teacher by its own"
    assert summary in page and "worst 95.0% (movies.like)" in page and "keeps 100.0% of the teacher on known" in page
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert ["int8_fast", "1,000,000", "4.00", "20", "0.50", "0.75", "16", "90 s"] in rows
    assert ["movies.like", "100.0%", "90.0%", "95.0%"] in rows and ["worst", "100.0%", "90.0%", "95.0%"] in rows
    assert ["movies.like ndcg@10", "0.4000", "0.3600", "0.3800"] in rows
    assert ["movies.like cold_ndcg@10", "0.2000", "0.1800", "0.1900"] in rows
    assert ["movies.like", "-0.20%", "0.971"] in rows
    assert ["encoder", "2,500,000", "62%", "█" * 12] in rows and ["teacher", "600.0", "75%", "█" * 15] in rows


def test_the_page_needs_nothing_else_and_its_bytes_depend_on_the_run_alone(page: str) -> None:
    assert page.count("<svg") == 6  # size, latency, kept, quality by stage, bytes, time
    assert not re.search(r'https?:(?!//www\.w3\.org/(2000/svg|1999/xlink)")', page)
    assert "<script" not in page and "<link" not in page and 'src="' not in page
    assert compress_report(outcome()).html() == page


def test_what_is_not_certified_says_why() -> None:
    report = compress_report(outcome(certified=False))
    for text in (report.html(), report.markdown()):
        assert "Not certified" in text and "too little is kept; the next step" in text


def test_markdown_says_the_same_in_tables() -> None:
    text = compress_report(outcome()).markdown()
    assert text.startswith("# tiny: what was compressed") and "<svg" not in text
    assert "| movies.like ndcg@10   |  0.4000 |  0.3600 |    0.3800 |" in text.splitlines()
    assert "* Teacher: a/b" in text.splitlines()


def test_names_and_reasons_are_text_not_markup() -> None:
    report = compress_report(outcome(certified=False, like=HOSTILE))
    assert "<script" not in report.html() and "&lt;script&gt;" in report.html()
    assert "movies.\\<script\\>" in report.markdown()


def test_a_ledger_without_latency_retention_and_shipped_stage_still_makes_a_page() -> None:
    whole = outcome()
    bare = {"teacher": {"tasks": {}, "size_bytes": 5}}
    ledger = {key: value for key, value in whole.ledger.items() if key not in ("retention", "headlines", "notes")}
    page = compress_report(replace(whole, ledger={**ledger, "stages": bare})).html()
    assert page.count("<svg") == 3 and "<td>teacher</td><td>-</td>" in page


def test_both_files_are_written(tmp_path: Path) -> None:
    assert write_compress_report(tmp_path, outcome()) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
