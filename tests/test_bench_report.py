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


@pytest.fixture
def two(measured: Any) -> Any:
    """The same bundle again under a name with markup, its ratings twice as bad."""
    second = copy.deepcopy(measured)
    second["bundles"][0] |= {"name": "other<b>"}
    second["bundles"][0]["quality"]["movies.rating"]["rmse"] *= 2
    for cell in second["cells"]:
        cell["name"] = "other<b>"
    return measured | {
        "bundles": measured["bundles"] + second["bundles"],
        "cells": measured["cells"] + second["cells"],
        "dataset": measured["dataset"] | {"split_hash": " ".join([measured["dataset"]["split_hash"]] * 2)},
    }


def test_several_bundles_stand_by_latency_and_quality(tmp_path: Path, two: Any) -> None:
    text = page(tmp_path, two)
    assert "<h2>Latency against quality</h2>" in text and text.count("<svg") == 4
    assert "other&lt;b&gt;" in text and "other<b>" not in text
    tasks = len(two["bundles"][0]["quality"])
    assert f"<td>{(tasks - 0.5) / tasks:.1%}</td>" in text
    assert "<td>encoder.fp32.onnx beside three-domains</td>" in text
    assert "<td>encoder.fp32.onnx beside other&lt;b&gt;</td>" in text


def test_bundles_of_different_splits_are_not_compared(tmp_path: Path, two: Any) -> None:
    two["dataset"]["split_hash"] = "aaaa bbbb"
    text = page(tmp_path, two)
    assert "Not drawn: the bundles were judged on different splits." in text and text.count("<svg") == 3


def test_the_length_nearest_to_32_tokens_that_all_have_is_compared(tmp_path: Path, two: Any) -> None:
    for cell in two["cells"]:
        if cell["kind"] == "encode":
            cell["tokens"] = 16
    assert "<h2>Latency against quality</h2>" in page(tmp_path, two)
    for cell in two["cells"]:
        if cell["kind"] == "encode" and cell["name"] == "other<b>":
            cell["tokens"] = 64
    assert "Not drawn: no length or no task is common to the bundles." in page(tmp_path, two)


def test_quality_is_relative_to_the_first_and_errors_count_the_other_way() -> None:
    first = {"a.like": {"auc": 0.9, "ndcg@10": 0.2}, "a.rating": {"rmse": 1.0}, "b.tag": {"macro_f1": 0.0}}
    second = {"a.like": {"ndcg@10": 0.1}, "a.rating": {"rmse": 0.5}, "b.tag": {"macro_f1": 0.4}}
    assert quality_shares([first, second]) == [1.0, pytest.approx((0.5 + 2.0) / 2)]
    assert quality_shares([first, {"c.like": {"auc": 0.7}}]) == []
    assert quality_shares([{"a.rating": {"mae": 1.0}}, {"a.rating": {"mae": 2.0}}]) == [1.0, 0.5]


def test_bench_writes_the_page_beside_the_table(tmp_path: Path) -> None:
    found = run("bench", BUNDLE, "--quick", "--tokens", "8", "--quiet", "--html", tmp_path / "bench.html")
    assert found.exit_code == 0, found.output
    assert "p50 ms" in found.stdout
    assert "<h2>Cold start</h2>" in (tmp_path / "bench.html").read_text()


def test_a_page_that_cannot_be_written_loses_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = tmp_path / "kept.json"
    asked = ["--quick", "--tokens", "8", "--quiet", "--html", tmp_path / "file" / "bench.html", "--json", kept]
    assert run("bench", BUNDLE, *asked).exit_code == 1
    assert json.loads(kept.read_text())["cells"]
