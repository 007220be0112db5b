"""The systems table of the hand-made bundle of tests/device, its page and its result files."""

import gzip
import json

import numpy as np
import pytest
from test_bundle_scorer import BUNDLE, arrays

from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_compress.systems import evaluate_bundles, mean_over_seeds
from mtrec_edge_compress.systems_report import write_report
from mtrec_edge_compress.systems_result import systems_result, write_domain, write_systems
from mtrec_edge_compress.systems_table import format_table
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.results import read_result


class TwoRatings:
    """The arrays, with a second regression task."""

    def task(self, name):
        return arrays().task(name.removesuffix("2"))

    def __getattr__(self, name):
        return getattr(arrays(), name)


@pytest.fixture(scope="module")
def table():
    return evaluate_bundles([BUNDLE], arrays(), profile="exact")


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path, table):
    write_report(tmp_path / "report.html", table)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<h2>movies.like</h2>") == 1 and page.count("<svg") >= 3  # bars, slices, words
    assert "http-equiv" not in page and 'src="' not in page and "<script" not in page and "<link" not in page
    assert "ndcg@10" in page and "popularity" in page
    write_report(tmp_path / "again.html", table)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_result_file_has_intervals_and_advantages(table):
    systems = systems_result(table, arrays(), name="tiny", command=["mtrec-edge"])["systems"]
    assert systems["fused"]["movies.like ndcg@10"] == {"value": 1.0, "low": 1.0, "high": 1.0}  # one user
    assert {"value", "low", "high"} == systems["fused"]["queries.entities span_f1"].keys()
    assert systems["fused - popularity"]["movies.like ndcg@10"]["low"] >= 0
    assert systems["fused, 3 events - popularity"]["movies.like ndcg@10"].keys() == {"value", "low", "high", "p"}


def test_a_domain_has_a_result_file_of_its_own(table, tmp_path):
    write_domain(tmp_path / "quality-movies.json", table, arrays(), "movies", command=["mtrec-edge"])
    found = read_result(tmp_path / "quality-movies.json")
    assert found["name"] == "quality-movies"
    assert {"ndcg@10", "rmse", "macro_f1"} <= found["systems"]["fused"].keys()
    assert "span_f1" not in found["systems"]["fused"] and "usual-tag" not in found["systems"]
    assert (tmp_path / found["samples"]).is_file()
    twice = {**table, "headlines": {**table["headlines"], "movies.rating2": "rmse"}}
    for part in ("systems", "against"):
        twice[part] = {
            name: {**own, "movies.rating2": own["movies.rating"]} if "movies.rating" in own else own
            for name, own in table[part].items()
        }
    write_domain(tmp_path / "two.json", twice, TwoRatings(), "movies", command=["mtrec-edge"])
    gains = read_result(tmp_path / "two.json")["systems"]["fused - popularity"]
    assert {"movies.rating mse", "movies.rating2 mse"} <= gains.keys() and "mse" not in gains
    with pytest.raises(InputError, match="domain 'shoes' is in no task of the bundle; it has movies, queries"):
        write_domain(tmp_path / "no.json", table, arrays(), "shoes", command=["mtrec-edge"])
    assert not (tmp_path / "no.json").exists()


def test_the_whole_table_has_a_result_file(table, tmp_path):
    write_systems(tmp_path / "tiny.json", table, arrays(), command=["mtrec-edge"])
    assert read_result(tmp_path / "tiny.json")["headlines"]["movies.like"] == "ndcg@10"


def test_the_bundle_is_judged_shown_less(table):
    views = {"fused, 0 events", "fused, 3 events", "fused, 1 like", "similar, 1 like", "tf-idf, 1 like"}
    assert views <= table["systems"].keys()
    for view in views:
        assert table["systems"][view].keys() == {"movies.like"}  # what orders a catalogue
    for view in ("fused, 0 events", "fused, 3 events"):
        assert table["against"][view]["movies.like"].keys() == {"popularity"}
    assert "tf-idf, 1 like" in table["against"]["similar, 1 like"]["movies.like"]
    assert not {name for name in table["against"]["fused"]["movies.like"] if "like" in name or "events" in name}


def test_the_table_holds_every_task_and_baseline():
    lines = []
    table = evaluate_bundles([BUNDLE], arrays(), profile="exact", progress=lines.append)
    assert table["systems"]["fused"]["movies.like"]["ndcg@10"] == 1.0
    assert table["systems"]["fused"]["queries.entities"]["span_f1"] == 1.0
    assert {"fused", "text", "popularity", "tf-idf", "item-knn", "bias"} <= table["systems"].keys()
    assert table["against"]["fused"]["movies.like"]["popularity"]["users"] == 1
    assert table["per_user"]["fused"]["movies.like"]["ndcg@10"] == [1.0]
    assert table["by_history"]["movies.like"]["fused"] == {"1-3": 1.0}
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert any(line.startswith("movies.like: popularity") for line in lines)
    text = format_table(table)
    assert text.startswith("movies.rating  (")
    assert "  fused" in text


def test_a_table_puts_the_headline_first_and_a_dash_where_nothing_was_measured():
    table = {
        "headlines": {"a.like": "ndcg@10"},
        "systems": {"fused": {"a.like": {"auc": 0.5, "ndcg@10": 0.25}}, "ease": {"a.like": {"ndcg@10": 0.125}}},
        "counts": {"a.like": {"users": 1234}},
    }
    assert format_table(table).splitlines() == [
        "a.like  (1,234 users)",
        "         ndcg@10     auc",
        "  fused   0.2500  0.5000",
        "  ease    0.1250       -",
    ]


def test_bundles_of_several_seeds_are_one_system(table):
    twice = evaluate_bundles([BUNDLE, BUNDLE], arrays(), profile="exact")
    assert twice["systems"] == table["systems"] and twice["per_user"] == table["per_user"]
    assert len(twice["seeds"]) == 2
    alone = table["systems"]["fused"]["movies.like"]["ndcg@10"]
    assert twice["by_seed"]["movies.like"] == [alone, alone]
    notes = systems_result(twice, arrays(), name="tiny", command=["mtrec-edge"])["notes"]
    assert f"movies.like, each bundle: {alone:.4f}, {alone:.4f}" in notes


def test_bundles_that_are_judged_by_other_views_are_refused_at_once(monkeypatch):
    answers = iter([("movies.like", "yes", "yes"), ("movies.like", "no", "yes")] * 2)
    monkeypatch.setattr("mtrec_edge_compress.systems._traits", lambda bundle: next(answers))
    monkeypatch.setattr("mtrec_edge_compress.systems._views", lambda *_: pytest.fail("judged"))
    with pytest.raises(InputError, match=r"a first visit answered by .*: yes, .*: no; evaluate together only bundles"):
        evaluate_bundles([BUNDLE, BUNDLE], arrays(), profile="exact")


@pytest.fixture
def earlier(tmp_path, table):
    """The table's result file, as if it were seed 7, its ranking worth a half."""
    half = json.loads(json.dumps(table | {"seeds": [7]}))
    half["systems"]["fused"]["movies.like"]["ndcg@10"] = 0.5
    half["per_user"]["fused"]["movies.like"]["ndcg@10"] = [0.5]
    write_systems(tmp_path / "seed-7.json", half, arrays(), command=["mtrec-edge"])
    return tmp_path / "seed-7.json"


def test_a_seed_judged_before_counts_as_if_judged_now(earlier, table):
    both = evaluate_bundles([BUNDLE], arrays(), profile="exact", judged_before=[earlier])
    assert both["seeds"] == [*table["seeds"], 7] and both["by_seed"]["movies.like"] == [1.0, 0.5]
    assert both["systems"]["fused"]["movies.like"]["ndcg@10"] == 0.75
    assert both["per_user"]["fused"]["movies.like"]["ndcg@10"] == [0.75]
    assert both["intervals"]["fused"]["movies.like"]["ndcg@10"] == [0.75, 0.75]
    assert both["against"]["fused"]["movies.like"]["popularity"]["mean"] == pytest.approx(
        0.75 - table["per_user"]["popularity"]["movies.like"]["ndcg@10"][0]
    )
    assert both["systems"]["text"] == {
        task: pytest.approx(found, abs=1e-6) for task, found in table["systems"]["text"].items()
    }
    notes = systems_result(both, arrays(), name="tiny", command=["mtrec-edge"])["notes"]
    assert any(note.startswith("seed 7 was judged before: seed-7.json, commit ") for note in notes)


def test_a_seed_judged_otherwise_is_refused(earlier):
    def refused(match, **changed):
        with pytest.raises(InputError, match=match):
            evaluate_bundles([BUNDLE], arrays(), **{"profile": "exact", "judged_before": [earlier], **changed})

    refused("was not judged alike .'profile fast'", profile="fast")
    refused("was not judged alike .'a seeded sample of 1 users", users_per_domain=1)
    refused("does not exist", judged_before=[earlier.with_name("none.json")])
    refused("seed 7 is given twice", judged_before=[earlier, earlier])
    whole = earlier.read_text(encoding="utf-8")

    def after(change, match):
        found = json.loads(whole)
        change(found)
        earlier.write_text(json.dumps(found), encoding="utf-8")
        refused(match)

    after(lambda found: found["seeds"].append(8), "is of 2 seeds: name a result file of one bundle")
    after(lambda found: found["dataset"].update(split_hash="other"), "was judged on split other")
    after(lambda found: found.pop("headlines"), "is no table of systems")
    after(lambda found: found["systems"]["text"].pop("movies.like ndcg@10"), "movies.like has no ndcg@10")
    after(lambda found: found["systems"].pop("text"), "'text' is not of the bundle's tasks")
    earlier.write_text(whole, encoding="utf-8")
    samples = earlier.with_name("seed-7.samples.json.gz")
    packed = samples.read_bytes()
    others = json.loads(gzip.decompress(packed))
    others["fused"]["movies.like"]["ndcg@10"] = [None]
    samples.write_bytes(gzip.compress(json.dumps(others).encode()))
    refused("movies.like ndcg@10 is of other users")
    samples.write_bytes(packed[: len(packed) // 2])
    refused("cannot be read")
    samples.unlink()
    refused("lacks its per-user values, seed-7.samples.json.gz")


def test_the_mean_over_seeds_by_hand():
    def part(values, f1, low):
        per_user = {"t.like": {"ndcg@10": np.array(values)}, "t.tag": {}}
        tasks = {"t.like": {"ndcg@10": float(np.nanmean(values))}, "t.tag": {"macro_f1": f1}}
        intervals = {"t.like": {"ndcg@10": (0.0, 1.0)}, "t.tag": {"macro_f1": (low, 1.0)}}
        return Evaluation(tasks, {}, {}, per_user, {}, {}, intervals=intervals)

    tags = {"t.tags": {"text_f1": np.array([0.0, 1.0])}}  # F1 of each text, which is not the F1 of all
    ofs = [
        Evaluation({"t.tags": {"span_f1": f1}}, {}, {}, tags, {}, {}, intervals={"t.tags": {"span_f1": (low, 0.9)}})
        for f1, low in ((0.6, 0.5), (0.8, 0.7))
    ]
    assert mean_over_seeds(ofs).intervals["t.tags"]["span_f1"] == pytest.approx((0.6, 0.9))
    found = mean_over_seeds([part([0.0, 1.0, np.nan], 0.5, 0.2), part([1.0, 1.0, np.nan], 0.7, 0.4)])
    assert found.tasks == {"t.like": {"ndcg@10": pytest.approx(0.75)}, "t.tag": {"macro_f1": pytest.approx(0.6)}}
    np.testing.assert_array_equal(found.per_user["t.like"]["ndcg@10"], [0.5, 1.0, np.nan])
    assert found.intervals["t.tag"]["macro_f1"] == pytest.approx((0.3, 1.0))
    assert found.intervals["t.like"]["ndcg@10"] == (0.5, 1.0)


def test_no_bundle_is_refused():
    with pytest.raises(InputError, match="no bundle to evaluate"):
        evaluate_bundles([], arrays())
