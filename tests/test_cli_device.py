"""The commands that ask a bundle: rank, score, explain, similar, classify, tag, on the tiny bundle."""

import pytest
from test_cli import BUNDLE, answer, run

from mtrec_edge.cli_text import parse_history
from mtrec_edge_runtime.catalogue import Catalogue
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.manifest import read_manifest
from mtrec_edge_runtime.tasks import Kind


def task_of(kind: Kind) -> str:
    return next(task.name for task in read_manifest(BUNDLE).tasks if task.kind is kind)


def ids_of(task: str) -> list[str]:
    manifest = read_manifest(BUNDLE)
    catalogue = Catalogue(BUNDLE, manifest.domains, vector_size=manifest.input.vector_size)
    return catalogue.ids(task.split(".")[0])


def test_rank_prints_the_best_first_and_leaves_out_the_history() -> None:
    task = task_of(Kind.BINARY)
    ids = ids_of(task)
    ranked = answer("rank", BUNDLE, "--task", task, "--history", ids[0], "-k", "3")
    assert len(ranked) == 3
    assert ids[0] not in [entry["item"] for entry in ranked]
    scores = [entry["score"] for entry in ranked]
    assert scores == sorted(scores, reverse=True)
    table = run("rank", BUNDLE, "--task", task, "--history", ids[0], "-k", "3").stdout.splitlines()
    assert table[0].split() == ["item", "score"]
    assert [line.split()[0] for line in table[1:]] == [entry["item"] for entry in ranked]


def test_rank_obeys_candidates_and_exclusions() -> None:
    task = task_of(Kind.BINARY)
    ids = ids_of(task)
    chosen = ["--candidates", ids[1], "--candidates", ids[2], "--exclude", ids[1]]
    ranked = answer("rank", BUNDLE, "--task", task, "--history", ids[0], *chosen)
    assert [entry["item"] for entry in ranked] == [ids[2]]


def test_a_user_without_history_is_answered() -> None:
    task = task_of(Kind.BINARY)
    ranked = answer("rank", BUNDLE, "--task", task, "-k", "99")
    assert {entry["item"] for entry in ranked} == set(ids_of(task))


def test_a_history_is_read_as_ids_values_and_texts() -> None:
    assert parse_history(["m1", "m2=4.5", "a=b", "=3"], ["a new thing"], behaviour="rate") == [
        Event(item="m1", behaviour="rate"),
        Event(item="m2", behaviour="rate", value=4.5),
        Event(item="a=b", behaviour="rate"),
        Event(item="=3", behaviour="rate"),
        Event(text="a new thing", behaviour="rate"),
    ]


def test_a_value_that_is_no_number_is_explained() -> None:
    result = run("rank", BUNDLE, "--task", task_of(Kind.BINARY), "--history", "m1=nan")
    assert result.exit_code == 1
    assert "event value nan is not a finite number" in result.stderr


def test_score_gives_a_column_a_task_of_the_domain() -> None:
    task = task_of(Kind.BINARY)
    domain = task.split(".")[0]
    pairwise = {t.name for t in read_manifest(BUNDLE).tasks if t.pairwise and t.domain == domain}
    rows = answer("score", BUNDLE, "--domain", domain, "--history-text", "a new thing", "--candidate-text", "another")
    assert [row["item"] for row in rows] == ["another"]
    assert set(rows[0]) == pairwise | {"item"}


def test_score_without_domain_or_task_is_a_usage_error() -> None:
    result = run("score", BUNDLE, "--history", "x")
    assert result.exit_code == 2
    assert "give --domain, or a --task" in result.output


def test_an_unknown_item_is_explained() -> None:
    result = run("rank", BUNDLE, "--task", task_of(Kind.BINARY), "--history", "no such item")
    assert result.exit_code == 1
    assert "unknown item 'no such item'" in result.stderr


def test_explain_tells_what_a_score_owes_to_its_parts() -> None:
    task = task_of(Kind.BINARY)
    ids = ids_of(task)
    asked = ["--task", task, "--history", ids[0], "--history-text", "magic", "--item", ids[1]]
    found = answer("explain", BUNDLE, *asked)
    assert set(found) == {"score", "history", "links", "priors", "reasons"}
    assert {reason["event"]["item"] or reason["event"]["text"] for reason in found["reasons"]} == {ids[0], "magic"}
    lines = run("explain", BUNDLE, *asked, "-k", "1").stdout.splitlines()
    assert lines[0].startswith(f"score {found['score']:.4f};")
    assert lines[1].split() == ["part", "effect", "cosine", "link"]
    assert [line.split("  ")[0] for line in lines[2:5]] == [
        "all events",
        "what users did together",
        "what all users did",
    ]
    assert len(lines) == 6


def test_explain_wants_one_item() -> None:
    result = run("explain", BUNDLE, "--task", task_of(Kind.BINARY), "--history", "x")
    assert result.exit_code == 2
    assert "give either --item or --text" in result.stderr


def test_similar_finds_the_item_itself_by_no_means() -> None:
    task = task_of(Kind.BINARY)
    ids = ids_of(task)
    found = answer("similar", BUNDLE, "--domain", task.split(".")[0], "--item", ids[0], "-k", "2")
    assert len(found) == 2
    assert ids[0] not in [entry["item"] for entry in found]


def test_similar_takes_an_item_or_a_text() -> None:
    result = run("similar", BUNDLE, "--domain", task_of(Kind.BINARY).split(".")[0])
    assert result.exit_code == 2
    assert "give either --item or --text" in result.output


def test_classify_gives_probabilities_best_first() -> None:
    labels = answer("classify", BUNDLE, "some text", "--task", task_of(Kind.MULTICLASS))
    assert sum(labels.values()) == pytest.approx(1, abs=1e-5)
    assert list(labels.values()) == sorted(labels.values(), reverse=True)


def test_tag_gives_a_label_a_word() -> None:
    tagged = answer("tag", BUNDLE, "red shoes", "--task", task_of(Kind.TOKEN))
    assert [entry["word"] for entry in tagged] == ["red", "shoes"]
