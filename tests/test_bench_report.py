"""Facts about the page of a benchmark: what it shows of published measurements, and what it leaves out."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import BUNDLE, run

from mtrec_edge_compress.bench_report import quality_shares, write_bench_report

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


@pytest.fixture
def measured() -> Any:
    return json.loads((RESULTS / "latency.json").read_text())


def page(tmp_path: Path, result: Any) -> str:
    write_bench_report(tmp_path / "bench.html", result)
    return (tmp_path / "bench.html").read_text()


def test_a_page_shows_texts_requests_and_starts_and_needs_nothing_else(tmp_path: Path, measured: Any) -> None:
    text = page(tmp_path, measured)
    for title in ("One text", "One request", "Cold start"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("<svg") == 3 and "Latency against quality" not in text
    total = next(cell for cell in measured["cells"] if cell["kind"] == "encode")["phases"]["total"]
    assert f"<td>{total['p50']:.3f}</td>" in text
    assert "src=" not in text and "<script" not in text and measured["machine"]["cpu"] in text
    assert text == page(tmp_path, measured)


def test_several_bundles_stand_by_latency_and_quality(tmp_path: Path, measured: Any) -> None:
    second = copy.deepcopy(measured)
    second["bundles"][0]["name"] = "other<b>"
    second["bundles"][0]["quality"]["movies.rating"]["rmse"] *= 2
    for cell in second["cells"]:
        cell["name"] = "other<b>"
    measured["bundles"] += second["bundles"]
    measured["cells"] += second["cells"]
    text = page(tmp_path, measured)
    assert "<h2>Latency against quality</h2>" in text and "other&lt;b&gt;" in text and "other<b>" not in text
    tasks = len(measured["bundles"][0]["quality"])
    assert f"<td>{(tasks - 0.5) / tasks:.1%}</td>" in text


def test_quality_is_relative_to_the_first_and_errors_count_the_other_way() -> None:
    first = {"a.like": {"auc": 0.9, "ndcg@10": 0.2}, "a.rating": {"rmse": 1.0}, "b.tag": {"macro_f1": 0.0}}
    second = {"a.like": {"ndcg@10": 0.1}, "a.rating": {"rmse": 0.5}, "b.tag": {"macro_f1": 0.4}}
    assert quality_shares([first, second]) == [1.0, pytest.approx((0.5 + 2.0) / 2)]
    assert quality_shares([first, {"c.like": {"auc": 0.7}}]) == []


def test_bench_writes_the_page_beside_the_table(tmp_path: Path) -> None:
    found = run("bench", BUNDLE, "--quick", "--tokens", "8", "--quiet", "--html", tmp_path / "bench.html")
    assert found.exit_code == 0, found.output
    assert "p50 ms" in found.stdout
    assert "<h2>Cold start</h2>" in (tmp_path / "bench.html").read_text()
