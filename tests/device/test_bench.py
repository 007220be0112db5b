"""Facts about measuring: summaries, interleaving, cells in fresh processes, the written result."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mtrec_edge_runtime.bench import bench, told_apart, write_bench
from mtrec_edge_runtime.bench_cell import text_of_length
from mtrec_edge_runtime.bench_plan import QUICK, Protocol, plan_cells
from mtrec_edge_runtime.errors import InputError, StageError
from mtrec_edge_runtime.manifest import read_manifest
from mtrec_edge_runtime.own_core import LEAST_SAMPLES, PACE, fastest_pace, own_core
from mtrec_edge_runtime.results import Result, read_result
from mtrec_edge_runtime.timing import Sampling, median_ratio, sample_ms, summarize, thin
from mtrec_edge_runtime.tokenizer import WordPiece

pytestmark = pytest.mark.device
BUNDLE = Path(__file__).parent / "tiny_bundle"


@pytest.fixture(scope="module")
def measured() -> Result:
    return bench([BUNDLE], against=[BUNDLE / "encoder.exact.onnx"], protocol=QUICK, command=["mtrec-edge", "bench"])


def test_percentiles_of_one_to_a_hundred_are_known() -> None:
    summary = summarize(np.arange(1.0, 101.0))
    assert summary["p50"] == 50.5
    assert summary["p95"] == pytest.approx(95.05)
    assert summary["n"] == 100
    assert summary["p50_low"] < 50.5 < summary["p50_high"]


def test_constant_samples_have_no_spread() -> None:
    summary = summarize(np.full(50, 2.0))
    assert (summary["p50_low"], summary["p50"], summary["p50_high"], summary["std"]) == (2.0, 2.0, 2.0, 0.0)


def test_a_ratio_of_pairs_that_drift_together_is_exact() -> None:
    drift = np.linspace(1.0, 3.0, 200)
    assert median_ratio(drift * 4, drift) == {"value": 4.0, "low": 4.0, "high": 4.0}


def test_thinning_keeps_the_first_and_the_last() -> None:
    kept = thin(np.arange(5000.0))
    assert (kept.size, kept[0], kept[-1]) == (1024, 0.0, 4999.0)


def test_calls_are_interleaved_after_the_warm_up() -> None:
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    samples = sample_ms(calls, Sampling(samples=3, seconds=0, warmup_runs=2, warmup_seconds=0))
    assert "".join(order) == "ab" * 5
    assert [series.size for series in samples.values()] == [3, 3]
    assert (samples["a"] >= 0).all()


@pytest.mark.parametrize("tokens", [3, 8, 16])
def test_a_benchmark_text_has_exactly_the_tokens_asked_for(tokens: int) -> None:
    tokenizer = WordPiece.load(BUNDLE / "vocab.txt")
    text = text_of_length(tokenizer, tokens, seed=1)
    assert len(tokenizer.encode(text, max_tokens=tokens + 10)) == tokens


def test_the_grid_stops_at_what_the_bundle_accepts() -> None:
    manifest = read_manifest(BUNDLE)
    cells = plan_cells(BUNDLE, manifest, against=(), protocol=Protocol())
    assert {cell.tokens for cell in cells if cell.kind == "encode"} == {
        tokens for tokens in (8, 16, 32, 64, 128) if tokens <= manifest.input.max_tokens
    }
    assert {cell.domain for cell in cells if cell.kind == "rank"} == {t.domain for t in manifest.tasks if t.pairwise}


def test_bundles_of_one_name_are_told_apart() -> None:
    old, new = Path("old/bundle"), Path("new/bundle")
    assert told_apart({old: "one", new: "other"}) == {old: "one", new: "other"}
    assert told_apart({old: "one", new: "one"}) == {old: "one (old/bundle)", new: "one (new/bundle)"}


def test_lengths_that_no_bundle_reads_are_told() -> None:
    with pytest.raises(InputError, match=r"tokens, none of the lengths asked for: 4096"):
        plan_cells(BUNDLE, read_manifest(BUNDLE), against=(), protocol=Protocol(tokens=(4096,)))


def test_every_cell_has_ordered_percentiles(measured: Result) -> None:
    timed = [cell for cell in measured["cells"] if cell["kind"] in ("encode", "rank", "against")]
    assert timed
    for cell in timed:
        for phase in cell["phases"].values():
            assert 0 < phase["p50"] <= phase["p90"] <= phase["p95"] <= phase["p99"]
            assert phase["n"] >= QUICK.sampling.samples


def test_encoding_is_measured_whole_and_in_parts(measured: Result) -> None:
    cell = next(cell for cell in measured["cells"] if cell["kind"] == "encode")
    assert list(cell["phases"]) == ["tokenize", "infer", "total"]
    assert cell["phases"]["total"]["p50"] > cell["phases"]["tokenize"]["p50"]


def test_every_timed_cell_says_how_often_it_had_its_core_to_itself(measured: Result) -> None:
    timed = [cell for cell in measured["cells"] if cell["kind"] in ("encode", "rank", "against")]
    assert all(0 <= cell["own_core"]["share"] <= 1 for cell in timed)
    assert all(PACE in cell["samples"] and PACE not in cell["phases"] and "repeats" not in cell for cell in timed)


def halves(slow: float, samples: int = 4 * LEAST_SAMPLES) -> dict[str, np.ndarray]:
    """Samples of a process that shares its core half of the time: then arithmetic and the call take `slow` as long."""
    shared = np.arange(samples) % 2 == 1
    factor = np.where(shared, slow, 1.0)
    return {PACE: 0.1 * factor, "bundle": 2.0 * factor, "against": 16.0 * np.where(shared, 1.0, factor)}


def test_samples_of_a_shared_core_are_left_out() -> None:
    repeats = [halves(1.8), halves(1.8)]
    found = own_core(repeats, fastest_pace(repeats))
    assert found["share"] == 0.5
    assert (found["phases"]["bundle"]["p95"], found["phases"]["bundle"]["n"]) == (2.0, 4 * LEAST_SAMPLES)
    assert found["speedup"]["value"] == 8.0 and PACE not in found["phases"]


def test_a_pace_within_the_limit_is_a_core_to_itself() -> None:
    assert own_core([halves(1.1)], fastest=0.1)["share"] == 1


def test_a_cell_that_was_never_alone_has_a_share_and_no_figure() -> None:
    assert own_core([halves(1.8)], fastest=0.05) == {"share": 0.0}
    assert "phases" not in own_core([halves(1.8, samples=2 * LEAST_SAMPLES - 2)], fastest=0.1)


def test_the_pace_of_a_run_is_that_of_its_fastest_process() -> None:
    slow = {PACE: np.full(100, 0.2)}
    assert fastest_pace([slow, halves(1.5)]) == pytest.approx(0.1)


def test_cold_start_adds_up(measured: Result) -> None:
    start = next(cell for cell in measured["cells"] if cell["kind"] == "cold_start")
    samples = {phase: np.array(series) for phase, series in start["samples"].items()}
    parts = samples["import"] + samples["load"] + samples["first_score"]
    assert samples["import_to_score"] == pytest.approx(parts)
    assert samples["total"] == pytest.approx(parts + samples["process"])


def test_memory_is_that_of_a_process_with_the_bundle(measured: Result) -> None:
    memory = next(cell for cell in measured["cells"] if cell["kind"] == "memory")["resident_bytes"]
    assert 10_000_000 < memory["peak"] < 1_000_000_000


def test_another_encoder_is_compared_with_an_interval(measured: Result) -> None:
    ratio = next(cell for cell in measured["cells"] if cell["kind"] == "against")["speedup"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_the_result_is_written_with_its_samples_beside_it(measured: Result, tmp_path: Path) -> None:
    cells = [dict(cell) for cell in measured["cells"]]
    write_bench(tmp_path / "tiny.json", {**measured, "cells": cells})
    read = read_result(tmp_path / "tiny.json")
    assert (read["name"], read["samples"]) == ("tiny", "tiny.samples.json.gz")
    assert read["bundles"][0]["size_bytes"] > 0
    raw = json.loads(gzip.decompress((tmp_path / "tiny.samples.json.gz").read_bytes()))
    assert len(raw) == len(read["cells"])
    assert all("samples" not in cell for cell in read["cells"])


def test_a_missing_other_encoder_is_named() -> None:
    with pytest.raises(InputError, match=r"against nowhere\.onnx: no such file"):
        bench([BUNDLE], against=[Path("nowhere.onnx")], protocol=QUICK)


def test_no_bundle_is_an_error() -> None:
    with pytest.raises(InputError, match="give the folder of at least one bundle"):
        bench([])


def test_a_failing_process_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    broken = tmp_path / "other.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(StageError, match=r"a measuring process ended with 1: .*; run it again alone"):
        bench([BUNDLE], against=[broken], protocol=QUICK)


def test_a_call_of_its_own_comes_before_each_timed_one_where_asked_for() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("large", "small")}
    sample_ms(calls, Sampling(samples=2, seconds=0.0, warmup_runs=1, warmup_seconds=0.0, own_caches=True))
    assert order == ["large", "large", "small", "small"] * 3
