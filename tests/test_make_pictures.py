"""Facts about the pictures of README.md: what they show, and when they are out of date."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import make_pictures

RESULTS = make_pictures.ROOT / make_pictures.RESULTS


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shown = {name for _, names in make_pictures.DRAWN.values() for name in names}
    (tmp_path / make_pictures.RESULTS).mkdir(parents=True)
    (tmp_path / make_pictures.PICTURES.parent).mkdir()
    for name in shown:
        (tmp_path / make_pictures.RESULTS / f"{name}.json").write_bytes((RESULTS / f"{name}.json").read_bytes())
    monkeypatch.setattr(make_pictures, "ROOT", tmp_path)
    return tmp_path


def change(project: Path, name: str, value: float) -> None:
    path = project / make_pictures.RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text())
    result["systems"]["ease"]["ndcg@10"]["value"] = value
    path.write_text(json.dumps(result))


def test_a_picture_is_drawn_once_and_again_when_its_results_change(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_pictures.main(["--check"]) == 1
    assert "pictures are out of date: ranking, tiers: run make tables" in capsys.readouterr().err
    assert make_pictures.main([]) == 0
    assert make_pictures.main(["--check"]) == 0
    ranking, tiers = (project / make_pictures.PICTURES / name for name in ("ranking.svg", "tiers.svg"))
    before = ranking.read_text()
    assert before.startswith("<svg") and "NDCG@10" in before and "quality-movielens" in before
    unchanged = tiers.read_bytes()
    change(project, "quality-movielens", 0.5)
    assert make_pictures.main(["--check"]) == 1
    assert "out of date: ranking:" in capsys.readouterr().err
    assert make_pictures.main([]) == 0
    assert ranking.read_text() != before and tiers.read_bytes() == unchanged


def test_a_baseline_that_was_not_run_has_no_bar() -> None:
    axes = make_pictures.Figure().subplots()
    figures = {"value": 0.2, "low": 0.1, "high": 0.3}
    make_pictures._bars(axes, {"fused": {"ndcg@10": figures}, "popularity": {"ndcg@10": {"value": 0.0}}})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["popularity", "mtrec-edge"]
    assert [text.get_text() for text in axes.texts] == ["0.000", "0.200"]
    assert axes.get_xlim()[1] > 0.3


def test_what_was_not_measured_is_not_drawn(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / make_pictures.RESULTS / "tiers.json").unlink()
    assert make_pictures.main([]) == 0
    assert "picture tiers: not yet measured, tiers.json does not exist" in capsys.readouterr().err
    assert not (project / make_pictures.PICTURES / "tiers.svg").exists()
