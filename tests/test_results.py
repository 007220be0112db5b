"""Facts about result files, and about the tables made from them."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_tables import fill, table
from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.systems_result import systems_result, write_systems
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.results import check_result, new_result, read_result, write_result

ROOT = Path(__file__).resolve().parent.parent


def three_stages() -> Any:
    result = new_result(
        "tiny",
        command=["mtrec-edge", "compress", "my recipe.toml"],
        seeds=[0],
        dataset={"name": "tiny", "split_hash": "abc", "counts": {"users": 2}},
    )
    result["stages"] = {
        "teacher": {"tasks": {"movies.like": {"ndcg@10": 0.5, "auc": 0.8}}, "size_bytes": 86_000_000},
        "int8_fast": {
            "tasks": {"movies.like": {"ndcg@10": 0.48, "auc": 0.79}},
            "size_bytes": 4_300_000,
            "latency_ms": {"32": {"p50": 0.61, "p95": 0.7}},
        },
    }
    result["retention"] = {"int8_fast": {"movies.like": 0.96}}
    result["headlines"] = {"movies.like": "ndcg@10"}
    return result


def test_a_written_result_is_read_back_equal(tmp_path: Path) -> None:
    result = three_stages()
    write_result(tmp_path / "tiny.json", result)
    assert read_result(tmp_path / "tiny.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def test_a_new_result_says_when_where_and_how() -> None:
    result = three_stages()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result["created"])
    assert result["command"] == "mtrec-edge compress 'my recipe.toml'"
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["versions"]["numpy"]


def test_a_missing_field_is_named() -> None:
    result = three_stages()
    del result["dataset"]["split_hash"]
    with pytest.raises(InputError, match=r"dataset: missing \['split_hash'\]"):
        check_result(result)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InputError, match=r"missing \[\], unknown \['speed'\]"):
        check_result(three_stages() | {"speed": 1})


def test_an_unknown_stage_is_named() -> None:
    result = three_stages()
    result["stages"]["int4"] = {"tasks": {}}
    with pytest.raises(InputError, match="unknown stage 'int4'; the stages are teacher, student"):
        check_result(result)


def two_tiers() -> Any:
    """A tier that was judged on unseen texts, and one for which there was nothing to judge."""
    result = three_stages()
    del result["stages"], result["retention"]
    tier = {
        "size_bytes": 3_200_000,
        "size_ratio": 136.1,
        "latency_ratio": 121.4,
        "retention_mean": 0.975,
        "retention_worst": 0.95,
        "seen": {"mean": 1.0, "worst": 1.0, "tasks": {"movies.like": 1.0}},
        "unseen": {"mean": 0.975, "worst": 0.95, "tasks": {"movies.like": 0.95, "movies.genre": 1.0}},
        "certified": True,
        "reasons": [],
        "bytes": {"embeddings": 1_000_000, "encoder": 2_000_000, "heads": 100_000, "overhead": 50_000},
        "latency_ms": {"32": {"p50": 0.412, "p95": 0.5}},
    }
    bare = {key: value for key, value in tier.items() if not key.startswith("retention")}
    result["tiers"] = {"tiny": tier, "nano": bare | {"unseen": {"tasks": {}}, "certified": False, "reasons": ["why"]}}
    return result


def test_tiers_are_a_result_and_a_table(tmp_path: Path) -> None:
    write_result(tmp_path / "tiers.json", two_tiers())
    lines = table(tmp_path / "tiers.json", "tiers").splitlines()
    assert lines[0].startswith("| tier | MB | smaller than BERT-base | ms a text | faster than BERT-base |")
    assert lines[2] == (
        "| tiny | 3.20 | 136 x | 0.412 | 121 x "
        "| 97.5 % | 95.0 % (movies.like) | 100.0 % | 100.0 % (movies.like) |  |  | yes |"
    )
    assert lines[3].startswith("| nano | 3.20 | 136 x | 0.412 | 121 x |  |  | 100.0 %") and lines[3].endswith("| no |")


def test_shares_of_a_tier_have_their_intervals_where_they_were_drawn(tmp_path: Path) -> None:
    result = two_tiers()
    result["tiers"]["tiny"]["unseen"] |= {"intervals": {"movies.like": [0.91, 0.987]}, "mean_interval": [0.96, 0.99]}
    write_result(tmp_path / "tiers.json", result)
    assert "| 97.5 % [96, 99] | 95.0 % [91, 99] (movies.like) |" in table(tmp_path / "tiers.json", "tiers")


def test_a_tier_that_lacks_a_field_is_refused() -> None:
    result = two_tiers()
    del result["tiers"]["tiny"]["seen"]
    with pytest.raises(InputError, match=r"tiers: tiny: missing \['seen'\]"):
        check_result(result)


def test_a_result_without_tiers_has_no_table_of_them(tmp_path: Path) -> None:
    write_result(tmp_path / "tiny.json", three_stages())
    with pytest.raises(InputError, match="result tiny has no tiers: use another view"):
        table(tmp_path / "tiny.json", "tiers")


def test_a_figure_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    result = three_stages()
    result["stages"]["teacher"]["tasks"]["movies.like"]["auc"] = float("nan")
    with pytest.raises(InputError, match=r"stages: teacher: tasks: movies\.like: auc: nan is not a figure"):
        write_result(tmp_path / "tiny.json", result)
    assert not list(tmp_path.iterdir())


def test_a_result_must_hold_a_measurement() -> None:
    result = three_stages()
    del result["stages"]
    with pytest.raises(InputError, match="one of stages, tiers, systems or cells is needed"):
        check_result(result)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.json"
    path.write_text('{"name": ')
    with pytest.raises(InputError, match=r"half\.json is not JSON"):
        read_result(path)
    with pytest.raises(InputError, match="does not exist: run the benchmark that writes it"):
        read_result(tmp_path / "none.json")


def test_the_stage_table_shows_headline_size_latency_and_retention(tmp_path: Path) -> None:
    write_result(tmp_path / "tiny.json", three_stages())
    lines = table(tmp_path / "tiny.json", "stages").splitlines()
    assert lines[0] == "| task | teacher | int8_fast | int8_fast keeps of teacher |"
    assert lines[2] == "| movies.like (ndcg@10) | 0.500 | 0.480 | 96.0 % |"
    assert lines[3] == "| graphs, MB | 86.0 | 4.3 |  |"
    assert lines[4] == "| one text of 32 tokens, ms (p50) |  | 0.61 |  |"
    assert lines[6].startswith("`tiny.json`: ")


def test_the_line_below_the_stage_table_says_how_long_the_run_took(tmp_path: Path) -> None:
    result = three_stages()
    result["seconds"] = {"teacher": 600.0, "verify": 75.0}
    write_result(tmp_path / "tiny.json", result)
    assert table(tmp_path / "tiny.json", "stages").endswith("seeds [0], 11.2 minutes in all.\n")


def test_the_stage_table_shows_both_catalogues(tmp_path: Path) -> None:
    result = three_stages()
    result["systems"] = {"int8_fast, catalogue=teacher": {"movies.like ndcg@10": {"value": 0.495}}}
    result["retention"]["int8_fast, catalogue=teacher"] = {"movies.like": 0.99}
    write_result(tmp_path / "tiny.json", result)
    lines = table(tmp_path / "tiny.json", "stages").splitlines()
    assert lines[3] == "| - catalogue by the teacher |  | 0.495 | 99.0 % |"


def one_cell(**own: object) -> dict:
    result = three_stages()
    del result["stages"]
    times = {"p50": 1.5, "p90": 1.7, "p95": 1.75, "p99": 2.0}
    cell = {"kind": "encode", "name": "tiny", "profile": "fast", "threads": 1, "batch": 1, "tokens": 32}
    result["cells"] = [cell | {"phases": {"total": times}, "speedup": {"value": 8.0, "low": 7.9, "high": 8.1}} | own]
    return result


def test_the_latency_table_shows_what_a_core_to_itself_takes(tmp_path: Path) -> None:
    own = {"share": 0.4, "phases": {"total": {"p50": 0.951, "p95": 1.2}}}
    own["speedup"] = {"value": 9.2, "low": 9.1, "high": 9.3}
    write_result(tmp_path / "tiny.json", one_cell(own_core=own))
    lines = table(tmp_path / "tiny.json", "latency").splitlines()
    assert lines[0].endswith("| p99 | own core: samples | p50 ms | p95 |")
    assert lines[2].endswith("| total | 1.50 | 1.70 | 1.75 | 2.00 | 40 % | 0.95 | 1.20 |")
    assert lines[3].endswith("| times faster than it | 8.0 x [7.9, 8.1] |  |  |  |  | 9.2 x [9.1, 9.3] |  |")


def test_the_latency_table_of_an_older_file_has_no_such_columns(tmp_path: Path) -> None:
    write_result(tmp_path / "tiny.json", one_cell())
    lines = table(tmp_path / "tiny.json", "latency").splitlines()
    assert lines[0].endswith("| p95 | p99 |") and lines[2].endswith("| 1.50 | 1.70 | 1.75 | 2.00 |")


def test_the_systems_table_shows_headlines_with_intervals(tmp_path: Path) -> None:
    result = three_stages()
    found = {"value": 0.128, "low": 0.114, "high": 0.142}
    result["systems"] = {"ease": {"movies.like ndcg@10": found, "movies.like mrr": {"value": 0.2}}, "random": {}}
    write_result(tmp_path / "tiny.json", result)
    lines = table(tmp_path / "tiny.json", "systems").splitlines()
    assert lines[0] == "| system | movies.like ndcg@10 |"
    assert lines[2:4] == ["| ease | 0.128 [0.114, 0.142] |", ""]  # nothing was measured of `random`


def test_the_control_table_shows_a_row_a_task_and_delta_m(tmp_path: Path) -> None:
    result = three_stages()
    gain = {"value": -0.02, "low": -0.03, "high": -0.01, "p": 0.045}
    result["systems"] = {
        "single": {
            "movies.like ndcg@10": {"value": 0.2, "low": 0.1, "high": 0.3},
            "movies.like cold_mrr": {"value": 0.0},
        },
        "multi": {"movies.like ndcg@10": {"value": 0.18}, "movies.like cold_mrr": {"value": 0.1}},
        "multi - single": {"movies.like ndcg@10": gain},
        "relative change": {"movies.like ndcg@10": {"value": -0.1}, "delta_m": {"value": -0.1}},
    }
    write_result(tmp_path / "tiny.json", result)
    lines = table(tmp_path / "tiny.json", "control").splitlines()
    wanted = "| movies.like ndcg@10 | 0.200 [0.100, 0.300] | 0.180 | -10.0% | ndcg@10 -0.020 [-0.030, -0.010] | 0.045 |"
    assert lines[2] == wanted and lines[3] == "| movies.like cold_mrr | 0.000 | 0.100 |  |  |  |"  # from nothing
    assert lines[4] == "| delta_m |  |  | -10.0% |  |  |"
    with pytest.raises(InputError, match="of no control"):
        write_result(tmp_path / "tiny.json", three_stages())
        table(tmp_path / "tiny.json", "control")


def test_the_ablation_table_shows_the_rows_of_each_change_cold_items_apart(tmp_path: Path) -> None:
    result = three_stages()
    warm, cold = ({"value": gain, "low": gain, "high": gain, "p": 0.5} for gain in (0.01, -0.04))
    result["systems"] = {
        "as is": {"movies.like ndcg@10": {"value": 0.2}, "movies.like cold_ndcg@10": {"value": 0.4}},
        "x=0": {"movies.like ndcg@10": {"value": 0.21}, "movies.like cold_ndcg@10": {"value": 0.36}},
        "x=0 - as is": {"movies.like ndcg@10": warm, "movies.like cold_ndcg@10": cold},
        "x=0, relative": {
            "movies.like ndcg@10": {"value": 0.05},
            "movies.like cold_ndcg@10": {"value": -0.1},
            "delta_m": {"value": 0.05},
        },
    }
    write_result(tmp_path / "tiny.json", result)
    lines = table(tmp_path / "tiny.json", "ablation").splitlines()
    assert lines[2:5] == [
        "| `x=0` | movies.like ndcg@10 | 0.200 | 0.210 | +5.0% | ndcg@10 0.010 [0.010, 0.010] | 0.500 |",
        "| `x=0` | movies.like cold_ndcg@10 | 0.400 | 0.360 | -10.0% | cold_ndcg@10 -0.040 [-0.040, -0.040] | 0.500 |",
        "| `x=0` | delta_m |  |  | +5.0% |  |  |",
    ]
    with pytest.raises(InputError, match="of no ablation"):
        write_result(tmp_path / "tiny.json", three_stages())
        table(tmp_path / "tiny.json", "ablation")


def test_filling_twice_changes_nothing_more(tmp_path: Path) -> None:
    write_result(tmp_path / "tiny.json", three_stages())
    text = "before\n<!-- table:tiny stages -->\nold\n<!-- /table -->\nafter\n"
    once = fill(text, tmp_path)
    assert once.startswith("before\n<!-- table:tiny stages -->\n| task |")
    assert once.endswith("<!-- /table -->\nafter\n")
    assert fill(once, tmp_path) == once


def test_a_table_without_its_file_says_so(tmp_path: Path) -> None:
    filled = fill("<!-- table:later stages -->\n<!-- /table -->\n", tmp_path)
    assert "_Not yet measured: `benchmarks/results/later.json` does not exist._" in filled


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.name)
def test_every_committed_result_keeps_the_schema(path: Path) -> None:
    assert read_result(path)["name"] == path.stem
    assert json.loads(path.read_text())["commit"] != "unknown"
    samples = path.with_name(path.stem + ".samples.json.gz")
    assert not samples.exists() or samples.stat().st_size <= 1_000_000  # a repository is no place for more


def test_an_evaluation_becomes_a_result_with_advantages_as_systems(tmp_path: Path) -> None:
    arrays = build_arrays(make_world(users=30, items=20, queries=10)[0])
    found = {"metric": "ndcg@10", "mean": 0.02, "low": 0.01, "high": 0.03, "p": 0.001, "users": 30}
    evaluated = {
        "seed": 0,
        "seeds": [3, None],
        "by_seed": {"video.like": [0.25, 0.35]},
        "judged_before": {},
        "profile": "fast",
        "users_per_domain": 30,
        "headlines": {"video.like": "ndcg@10"},
        "systems": {"fused": {"video.like": {"ndcg@10": 0.3}}, "ease": {"video.like": {"ndcg@10": 0.28}}},
        "intervals": {"fused": {"video.like": {"ndcg@10": [0.2, 0.4]}}, "ease": {}},
        "against": {"fused": {"video.like": {"ease": found}}},
        "per_user": {"fused": {"video.like": {"ndcg@10": [1.0, None]}}},
    }
    write_systems(tmp_path / "tiny-systems.json", evaluated, arrays, command=["mtrec-edge", "evaluate"])
    raw = json.loads(gzip.decompress((tmp_path / "tiny-systems.samples.json.gz").read_bytes()))
    assert raw == evaluated["per_user"]
    assert read_result(tmp_path / "tiny-systems.json")["samples"] == "tiny-systems.samples.json.gz"
    result = systems_result(evaluated, arrays, name="tiny-systems", command=["mtrec-edge", "evaluate"])
    check_result(result)
    assert result["seeds"] == [3, 0]  # a bundle that does not say its own counts as that of the evaluation
    assert result["systems"]["fused"] == {"video.like ndcg@10": {"value": 0.3, "low": 0.2, "high": 0.4}}
    assert result["systems"]["ease"] == {"video.like ndcg@10": {"value": 0.28}}
    assert result["systems"]["fused - ease"] == {
        "video.like ndcg@10": {"value": 0.02, "low": 0.01, "high": 0.03, "p": 0.001}
    }
    assert "a seeded sample of 30 users a domain" in result["notes"]
    assert "video.like, each bundle: 0.2500, 0.3500" in result["notes"]
