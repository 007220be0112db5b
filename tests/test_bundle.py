import json
import shutil
import string
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import MAX_TOKENS, SHAPE, VOCABULARY, dataset, id_rows, student_model

from mtrec_edge_compress.bundle import Card, device_bytes, self_test, write_bundle
from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.golden import TEXTS
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.verify import Verdict
from mtrec_edge_runtime.catalogue import MEAN_VALUE
from mtrec_edge_runtime.errors import BundleError, StageError
from mtrec_edge_runtime.golden import check_golden
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.manifest import read_manifest, write_manifest
from mtrec_edge_runtime.neighbours import make_neighbours
from mtrec_edge_runtime.recommender import Recommender
from mtrec_edge_runtime.tokenizer import WordPiece

LETTERS = string.ascii_lowercase + string.digits
WORDS = ["movie", "number", "product", "red", "blue", "shoes", "hat", "quiet", "story", "sea", "the", "about"]
VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    *string.punctuation,
    *WORDS,
]
CARD = Card(
    "tiny",
    0,
    MAX_TOKENS,
    SHAPE.max_history,
    True,
    "student",
    ({"stage": "teacher", "seconds": 1.5},),
    {"movies.like": {"auc": 0.5}},
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Everything `write_bundle` takes, made by the stages before it."""
    assert len(VOCAB) <= VOCABULARY
    place = tmp_path_factory.mktemp("parts")
    export_onnx(student_model(), place)
    quantize(place, place / "int8", id_rows())
    (place / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    arrays = build_arrays(dataset())
    tokenizer = WordPiece.load(place / "vocab.txt")
    ids = [np.array(tokenizer.encode(text, max_tokens=MAX_TOKENS), np.int64) for text in arrays.item_texts]
    vectors = Graphs(place, "fp32").encode(ids).vectors
    start = np.repeat([0, 1, 3], [4, 4, len(ids) - 7])  # m3 -> m5 0.5, m7 -> m5 0.25, m7 -> m9 -0.5
    neighbours = make_neighbours(start, np.array([5, 5, 9]), np.array([0.5, 0.25, -0.5]))
    return SimpleNamespace(
        graphs=place / "int8",
        vocabulary=place / "vocab.txt",
        arrays=arrays,
        vectors=vectors,
        neighbours=neighbours,
        ids=ids,
    )


def write(out, parts, *, vectors=None, verdict=Verdict(True, (), {}), max_mb=0.0):  # noqa: B008
    return write_bundle(
        out,
        graphs=parts.graphs,
        vocabulary=parts.vocabulary,
        arrays=parts.arrays,
        vectors=parts.vectors if vectors is None else vectors,
        neighbours=parts.neighbours,
        temperatures={"movies.like": 2.0},
        card=CARD,
        verdict=verdict,
        max_mb=max_mb,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, parts):
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    write(out, parts)
    return out


def test_the_devices_bytes_are_all_files_but_the_catalogue(bundle):
    graphs = ("encoder.bin", "encoder.exact.onnx", "encoder.onnx", "text_heads.onnx", "ranker.onnx")
    names = (*graphs, "vocab.txt", "golden.json")
    expected = sum((bundle / name).stat().st_size for name in (*names, "manifest.json"))
    assert device_bytes(bundle) == expected


def test_a_bundle_above_its_budget_is_not_certified_and_says_so(parts, bundle, tmp_path):
    limit = device_bytes(bundle) / 1e6
    assert write(tmp_path / "fits", parts, max_mb=limit + 0.0001).certified
    manifest = write(tmp_path / "large", parts, verdict=Verdict(False, ("slow",), {}), max_mb=limit / 2)
    assert not manifest.certified and manifest.reasons[0] == "slow"
    assert manifest.reasons[1].startswith("the bundle without its catalogue has ")
    assert read_manifest(tmp_path / "large").reasons == manifest.reasons


def test_a_bundle_holds_the_files_of_the_format_and_nothing_else(bundle):
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == [
        "catalogue/ids.bin",
        "catalogue/lengths.npy",
        "catalogue/neighbour_codes.npy",
        "catalogue/neighbour_counts.npy",
        "catalogue/neighbour_items.npy",
        "catalogue/neighbour_scales.npy",
        "catalogue/priors.npy",
        "catalogue/scales.npy",
        "catalogue/vectors.npy",
        "encoder.bin",
        "encoder.exact.onnx",
        "encoder.onnx",
        "golden.json",
        "manifest.json",
        "ranker.onnx",
        "text_heads.onnx",
        "vocab.txt",
    ]
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]  # nothing is left beside it


def test_the_manifest_says_what_was_given(bundle, parts):
    manifest = read_manifest(bundle)
    assert manifest.name == "tiny" and manifest.certified and manifest.catalogue == "student"
    assert manifest.domains == {"movies": (0, 30), "products": (30, 36)}
    assert [task.name for task in manifest.tasks] == ["movies.rating", "movies.like", "movies.genre", "products.tags"]
    assert manifest.input.max_tokens == MAX_TOKENS and manifest.input.vector_size == 16
    assert [(b.domain, b.name) for b in manifest.input.behaviours] == [("movies", "rate"), ("products", "view")]
    assert manifest.data["licence"] == "none: invented" and manifest.stages == CARD.stages
    assert manifest.onnx.safe_without_vnni is True


def test_an_uncertified_bundle_says_why(tmp_path, parts):
    write(tmp_path / "b", parts, verdict=Verdict(False, ("movies.like: lost",), {}))
    manifest = read_manifest(tmp_path / "b")
    assert not manifest.certified and manifest.reasons == ("movies.like: lost",)


def test_golden_answers_cover_texts_rankings_and_both_profiles(bundle):
    golden = json.loads((bundle / "golden.json").read_text(encoding="utf-8"))
    assert [answer["text"] for answer in golden["texts"]] == list(TEXTS) and len(TEXTS) >= 8
    assert all(set(answer["outputs"]) == {"movies.genre", "products.tags"} for answer in golden["texts"])
    assert [len(answer["history"]) for answer in golden["ranks"]] == [1, 2, 2, 0]  # one domain with pairwise tasks
    assert all(set(answer["scores"]) == {"movies.rating", "movies.like"} for answer in golden["ranks"])
    assert 0.98 < golden["fast_cosine"] < 1
    assert check_golden(bundle) == []


def test_golden_answers_give_no_value_to_a_behaviour_that_has_none(tmp_path, parts):
    silent = tuple(replace(behaviour, valued=False) for behaviour in parts.arrays.behaviours)
    parts = SimpleNamespace(**{**vars(parts), "arrays": replace(parts.arrays, behaviours=silent)})
    write(tmp_path / "b", parts)
    golden = json.loads((tmp_path / "b/golden.json").read_text(encoding="utf-8"))
    assert {event["value"] for answer in golden["ranks"] for event in answer["history"]} == {None}


def test_exact_profile_scores_as_torch_does(bundle, parts):
    """Text -> ids -> vectors -> scores as shipped, against the torch model, within the error of INT8 weights."""
    model, recommender = student_model(), Recommender(bundle, profile="exact")
    texts = ["red shoes", "a quiet story about the sea"]
    vectors = recommender.encode(texts)
    tokenizer = WordPiece.load(parts.vocabulary)
    with torch.no_grad():
        for text, vector in zip(texts, vectors, strict=True):
            ids = torch.tensor([tokenizer.encode(text, max_tokens=MAX_TOKENS)])
            assert float(model.encode(ids, torch.ones_like(ids))["vector"][0] @ torch.from_numpy(vector)) > 0.999
        rows = [3, 7]  # oldest first; the ranker takes the latest first
        rate = parts.arrays.behaviours[0]
        values = (np.array([1.0, 5.0], np.float32) - rate.mean) / rate.scale
        usual = parts.arrays.priors[rows[::-1], MEAN_VALUE]
        scores = recommender.score(
            [
                Event(item="m3", domain="movies", behaviour="rate", value=5.0),
                Event(item="m7", domain="movies", behaviour="rate", value=1.0),
            ],
            domain="movies",
        )
        affinity = torch.zeros(1, 30, 2)  # of m7, then of m3
        affinity[0, 5], affinity[0, 9, 0] = torch.tensor([0.25, 0.5]), -0.5
        raw = model.rank(
            torch.from_numpy(parts.vectors[rows[::-1]][None]),
            torch.zeros(1, 2, dtype=torch.int64),
            torch.from_numpy((values - usual).astype(np.float32))[None],
            torch.tensor([[0, 1]]),
            torch.ones(1, 2, dtype=torch.int64),
            torch.from_numpy(parts.vectors[:30][None]),
            torch.from_numpy(parts.arrays.priors[:30][None]),
            affinity,
        )
    assert np.abs(scores["movies.rating"] - raw["movies.rating"][0].clamp(0.5, 5.0).numpy()).max() < 0.02
    order = recommender.order([Event(item="m3", domain="movies", value=5.0)], task="movies.like")
    assert order.shape == (30,) and "movies.like.order" in recommender.manifest.outputs
    assert np.abs(scores["movies.like"] - torch.sigmoid(raw["movies.like"][0] / 2.0).numpy()).max() < 0.01


def test_exact_profile_gives_a_batch_what_it_gives_each_text(bundle):
    recommender = Recommender(bundle, profile="exact")
    texts = ["red shoes", "blue hat", "the quiet sea, a story", "x"]
    alone = np.concatenate([recommender.encode([text]) for text in texts])
    assert np.abs(recommender.encode(texts) - alone).max() < 1e-6


def test_a_new_bundle_replaces_the_old_one(tmp_path, parts):
    write(tmp_path / "b", parts)
    before = (tmp_path / "b/catalogue/vectors.npy").read_bytes()
    write(tmp_path / "b", parts, vectors=parts.vectors[:, ::-1].copy())
    assert (tmp_path / "b/catalogue/vectors.npy").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path, parts):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match=r"is there and is no bundle .* choose another --out"):
        write(tmp_path, parts)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_old_bundle_stays_when_the_new_one_cannot_be_made(tmp_path, parts):
    write(tmp_path / "b", parts)
    before = (tmp_path / "b/manifest.json").read_bytes()
    with pytest.raises(BundleError, match="finite"):
        write(tmp_path / "b", parts, vectors=np.full_like(parts.vectors, np.nan))
    assert (tmp_path / "b/manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_answers_that_cannot_be_reproduced_fail_the_self_test(tmp_path, bundle):
    staged = tmp_path / "b"
    shutil.copytree(bundle, staged)
    manifest = read_manifest(staged)
    answers = json.loads((staged / "golden.json").read_text(encoding="utf-8"))
    answers["texts"][0]["vector"][0] += 0.5
    (staged / "golden.json").write_text(json.dumps(answers), encoding="utf-8")
    write_manifest(staged, manifest)
    with pytest.raises(StageError, match=r"fails its own test, .*: vector of 'red running shoes': differs by 0\.5"):
        self_test(staged)
