"""A bundle proves itself by golden.json."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrec_edge_runtime import BundleError, check_golden

pytestmark = pytest.mark.device


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "golden.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")


def test_the_tiny_bundle_proves_itself(tiny: Path) -> None:
    assert check_golden(tiny) == []


DIFFERENCES = {
    "token ids": lambda table: table["texts"][0]["input_ids"].append(3),
    "vector of 'space alien': differs by 0.5, at most 0.001": lambda table: table["texts"][0].update(
        vector=[0.5, 0, 0, 0]
    ),
    "vector of 'space alien': shape": lambda table: table["texts"][0].update(vector=[1.0]),
    "movies.genre of 'space alien': differs by 4": lambda table: table["texts"][0]["outputs"].update(
        {"movies.genre": [0, 0, 0]}
    ),
    "text 'space alien': outputs": lambda table: table["texts"][0]["outputs"].pop("movies.genre"),
    "score movies.like: differs by": lambda table: table["ranks"][0]["scores"].update({"movies.like": [0.5] * 5}),
    "profile fast: mean cosine": lambda table: table.update(fast_cosine=1.1),
}


@pytest.mark.parametrize("message", DIFFERENCES)
def test_a_difference_is_one_line(copy: Path, rehash: Callable[[Path], None], message: str) -> None:
    edit(copy, DIFFERENCES[message])
    rehash(copy)
    (failure,) = check_golden(copy)
    assert message in failure


def test_a_difference_within_the_tolerance_is_none(copy: Path, rehash: Callable[[Path], None]) -> None:
    edit(copy, lambda table: table["texts"][0].update(vector=[0.9991, 0, 0, 0]))
    rehash(copy)
    assert check_golden(copy) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.pop("texts"), "is not as docs/bundle-format.md says"),
        (lambda table: table.update(ranks=7), "is not as docs/bundle-format.md says"),
        (lambda table: table.update(texts=[]), "holds no text: it proves nothing"),
        (lambda table: table["ranks"][0].update(domain="songs"), "unknown domain 'songs'"),
        (lambda table: table["texts"][0].update(vector=[10**400]), "is not as docs/bundle-format.md says"),
        (lambda table: table["ranks"][0].update(candidates=["nope"]), "does not fit this bundle: unknown item 'nope'"),
    ],
)
def test_a_golden_file_of_another_bundle(copy: Path, rehash: Callable[[Path], None], change, message: str) -> None:
    edit(copy, change)
    rehash(copy)
    with pytest.raises(BundleError, match=message):
        check_golden(copy)


def test_a_bundle_without_golden_examples(copy: Path, rehash: Callable[[Path], None]) -> None:
    (copy / "golden.json").unlink()
    rehash(copy)
    with pytest.raises(BundleError, match=r"lists no golden\.json"):
        check_golden(copy)
