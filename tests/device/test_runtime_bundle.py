"""A damaged, altered, hostile or newer bundle is one BundleError before anything is scored."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtrec_edge_runtime import BundleError, InputError, Recommender
from mtrec_edge_runtime.integrity import MAX_FILE_BYTES, check_name
from mtrec_edge_runtime.manifest import (
    FORMAT,
    MAX_MANIFEST_BYTES,
    Behaviour,
    InputContract,
    read_manifest,
    write_manifest,
)

pytestmark = pytest.mark.device

FILES = sorted(read_manifest(Path(__file__).parent / "tiny_bundle").files)


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "manifest.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")


def test_manifest_written_is_the_manifest_read(tiny: Path, copy: Path) -> None:
    manifest = read_manifest(tiny)
    assert write_manifest(copy, replace(manifest, files={})) == manifest == read_manifest(copy)
    assert (copy / "manifest.json").read_bytes() == (tiny / "manifest.json").read_bytes()


@pytest.mark.parametrize("safe", [True, False, None])
def test_what_was_found_of_old_cpus_is_an_optional_key(copy: Path, safe: bool | None) -> None:
    manifest = read_manifest(copy)
    assert manifest.onnx.safe_without_vnni is None  # a bundle made before the key
    write_manifest(copy, replace(manifest, onnx=replace(manifest.onnx, safe_without_vnni=safe)))
    assert read_manifest(copy).onnx.safe_without_vnni is safe
    assert ("safe_without_vnni" in (copy / "manifest.json").read_text("utf-8")) is (safe is not None)


def test_a_safety_that_is_no_truth_value_is_refused(copy: Path) -> None:
    edit(copy, lambda table: table["onnx"].update(safe_without_vnni="yes"))
    with pytest.raises(BundleError, match="safe_without_vnni 'yes' is neither true nor false"):
        read_manifest(copy, verify=False)


def test_manifest_holds_every_file_of_the_folder(tiny: Path) -> None:
    found = {p.relative_to(tiny).as_posix() for p in tiny.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(FILES) == found


@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has SHA-256 .* altered: get the bundle again"):
        Recommender(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found_even_without_hashing(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"{name} has {len(data) - 1} bytes, the manifest says {len(data)}"):
        Recommender(copy, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing; copy the whole bundle again"):
        Recommender(copy)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file; give the folder of a bundle"):
        Recommender(tmp_path / "nothing")


def test_a_newer_format_asks_for_a_newer_runtime(copy: Path) -> None:
    edit(copy, lambda table: table.update(format=FORMAT + 1, tasks="in a way nobody knows yet"))
    with pytest.raises(
        BundleError, match=f"bundle format {FORMAT + 1}, this runtime reads {FORMAT}; install a newer mtrec-edge"
    ):
        Recommender(copy)


def test_a_bundle_of_the_format_before_has_to_be_made_again(copy: Path) -> None:
    edit(copy, lambda table: table.update(format=FORMAT - 1, tasks="as they were then"))
    with pytest.raises(
        BundleError, match=f"bundle format {FORMAT - 1}, this runtime reads {FORMAT}; make the bundle again with this"
    ):
        Recommender(copy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": true}',
        '{"format": 0}',
        f'{{"format": {FORMAT}}}',
        '{"format": NaN}',
        "\x00",
        "é",
    ],
)
def test_a_manifest_that_is_none_is_damaged(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(BundleError, match=r"manifest\.json: .*damaged, get it again"):
        Recommender(copy)


def test_a_huge_manifest_is_not_read(copy: Path) -> None:
    with (copy / "manifest.json").open("ab") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match="larger than the 4194304 bytes"):
        Recommender(copy)


def test_a_huge_file_is_not_read(copy: Path) -> None:
    with (copy / "golden.json").open("ab") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # sparse
    edit(copy, lambda table: table["files"]["golden.json"].update(size=MAX_FILE_BYTES + 1))
    with pytest.raises(BundleError, match=r"golden\.json has 1073741825 bytes.*at most 1073741824"):
        Recommender(copy)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "catalogue/..",
        "catalogue/.",
        "a/b",
        "/etc/passwd",
        "catalogue/a/b",
        "A.bin",
        "a\\b",
        "",
        "a\n",
    ],
)
def test_a_name_cannot_leave_the_folder(copy: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is not allowed in a bundle"):
        check_name(name)
    edit(copy, lambda table: table["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="is not allowed in a bundle"):
        Recommender(copy)


def test_a_profile_cannot_leave_the_folder(copy: Path) -> None:
    edit(copy, lambda table: table["profiles"].update(fast="../encoder.onnx"))
    with pytest.raises(BundleError, match="is not allowed in a bundle"):
        Recommender(copy)


CHANGES = {
    "files lacks ranker.onnx": lambda table: table["files"].pop("ranker.onnx"),
    "files lacks text_heads.onnx": lambda table: table["files"].pop("text_heads.onnx"),
    "files lacks encoder.bin": lambda table: table["files"].pop("encoder.bin"),
    "'tasks' is missing": lambda table: table.pop("tasks"),
    "distinct names": lambda table: table["tasks"].append(table["tasks"][0]),
    "a label stands twice among one, two, one": lambda table: table["tasks"][3].update(labels=["one", "two", "one"]),
    r"'movies.order': .order is kept for a task's second score": lambda table: table["tasks"][0].update(
        name="movies.order"
    ),
    "at least two labels": lambda table: table["tasks"][3].update(labels=["one"]),
    "is not a valid Kind": lambda table: table["tasks"][0].update(kind="guess"),
    "domain.signal": lambda table: table["tasks"][0].update(name="like"),
    "max_tokens 2": lambda table: table["input"].update(max_tokens=2),
    "'16' where a whole number": lambda table: table["input"].update(max_tokens="16"),
    "True where a whole number": lambda table: table["input"].update(max_history=True),
    "scale 0.0 must be finite": lambda table: table["input"]["behaviours"][0].update(scale=0),
    "domain movies has rows": lambda table: table["domains"].update(movies=[5, 0]),
    "neither fast nor exact": lambda table: table["profiles"].update(turbo="x.onnx"),
    "neither teacher nor student": lambda table: table.update(catalogue="nobody"),
    "not of the form 1.20": lambda table: table["onnx"].update(onnxruntime="any"),
    "needs onnxruntime 99.0, found": lambda table: table["onnx"].update(onnxruntime="99.0"),
    "holds exact; choose one of these": lambda table: table["profiles"].pop("fast"),
    "8 items, but the manifest's domains": lambda table: table["domains"].update(books=[5, 7]),
    "item vectors of 4 numbers, the manifest's are of 5": lambda table: table["input"].update(vector_size=5),
    "the pairwise tasks are .*books.buy": lambda table: table["tasks"].append(
        dict(table["tasks"][1], name="books.buy")
    ),
    "the ranker gives .*'books.buy.order'": lambda table: table["outputs"].append("books.buy.order"),
    "the ranker gives .*'books.like', 'books.like'": lambda table: table["outputs"].insert(2, "books.like"),
    "7 where text was expected": lambda table: table["outputs"].append(7),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_manifest_that_contradicts_itself_or_the_files(copy: Path, message: str) -> None:
    edit(copy, CHANGES[message])
    with pytest.raises(BundleError, match=message):
        Recommender(copy)


def test_a_manifest_number_must_be_finite(copy: Path) -> None:
    manifest = read_manifest(copy)
    with pytest.raises(BundleError, match="use null for a number that is missing"):
        write_manifest(copy, replace(manifest, quality={"movies.like": {"auc": float("nan")}}))
    with pytest.raises(BundleError, match="must be finite"):
        Behaviour("movies", "rate", mean=float("nan"))
    with pytest.raises(BundleError, match="vector_size 0"):
        InputContract(16, 4, 0, ())


def test_a_stray_file_is_refused_on_writing(copy: Path) -> None:
    (copy / "Notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"'Notes\.txt' is not allowed in a bundle"):
        write_manifest(copy, read_manifest(copy))


def test_a_graph_that_is_none(copy: Path, rehash: Callable[[Path], None]) -> None:
    (copy / "ranker.onnx").write_bytes(b"not a graph")
    rehash(copy)
    with pytest.raises(BundleError, match=r"ranker\.onnx: ONNX Runtime .* cannot open it"):
        Recommender(copy)


@pytest.mark.parametrize("graph", ["encoder.exact.onnx", "text_heads.onnx", "ranker.onnx"])
def test_a_graph_that_is_another(copy: Path, rehash: Callable[[Path], None], graph: str) -> None:
    shutil.copy(copy / "encoder.onnx", copy / graph)
    rehash(copy)
    with pytest.raises(BundleError, match="parts do not belong together"):
        Recommender(copy, profile="exact")


def test_a_manifest_that_promises_a_score_the_ranker_has_not(copy: Path) -> None:
    edit(copy, lambda table: table["outputs"].append("movies.like.order"))
    with pytest.raises(BundleError, match=r"ranker\.onnx: ONNX Runtime cannot run it"):
        Recommender(copy).rank(["alien"], task="movies.like")


@pytest.mark.parametrize("labels", [["scifi", "romance"], ["scifi", "romance", "fantasy", "war"]])
def test_labels_that_are_not_the_columns_of_the_head(copy: Path, labels: list[str]) -> None:
    edit(copy, lambda table: table["tasks"][3].update(labels=labels))
    with pytest.raises(BundleError, match=r"movies\.genre has 3 columns, the manifest \d labels"):
        Recommender(copy)


def test_a_bundle_without_text_tasks_needs_no_text_heads(copy: Path) -> None:
    (copy / "text_heads.onnx").unlink()
    whole = json.loads((copy / "manifest.json").read_text("utf-8"))
    whole["files"].pop("text_heads.onnx")
    whole["tasks"] = [task for task in whole["tasks"] if task["kind"] in ("regression", "binary")]
    (copy / "manifest.json").write_text(json.dumps(whole), "utf-8")
    recommender = Recommender(copy)
    assert recommender.encode(["space alien"]).shape == (1, 4)
    assert recommender.rank(["alien"], task="movies.like", k=1)
    with pytest.raises(InputError, match=r"task 'movies\.genre' is not in this bundle; usable here: none"):
        recommender.classify("space", task="movies.genre")


def test_a_vocabulary_longer_than_the_embedding_table(copy: Path, rehash: Callable[[Path], None]) -> None:
    with (copy / "vocab.txt").open("a") as stream:
        stream.write("surplus\n")
    rehash(copy)
    with pytest.raises(BundleError, match="ONNX Runtime cannot run it"):
        Recommender(copy).encode(["surplus"])


@pytest.mark.parametrize("vocab", [b"[PAD]\n[CLS]\n[SEP]\n", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", b""])
def test_a_vocabulary_needs_distinct_tokens_and_the_special_ones(
    copy: Path, rehash: Callable[[Path], None], vocab
) -> None:
    (copy / "vocab.txt").write_bytes(vocab)
    rehash(copy)
    with pytest.raises(BundleError, match="tokens must be distinct and hold"):
        Recommender(copy)


def test_a_vocabulary_must_be_utf8(copy: Path, rehash: Callable[[Path], None]) -> None:
    (copy / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    rehash(copy)
    with pytest.raises(BundleError, match="must be UTF-8"):
        Recommender(copy)


def damage_lengths(place: Path) -> None:
    np.save(place / "lengths.npy", np.array([5, 9, 14, 6, 10, 4, 4, 5], np.uint16))  # the last id has 6 bytes


def damage_scales(place: Path) -> None:
    np.save(place / "scales.npy", np.full(8, np.nan, np.float16))


def damage_priors(place: Path) -> None:
    np.save(place / "priors.npy", np.zeros((8, 3), np.float32))


def damage_width(place: Path) -> None:
    np.save(place / "vectors.npy", np.zeros((8, 5), np.int8))


def damage_vectors(place: Path) -> None:
    np.save(place / "vectors.npy", np.array([{"a": "pickle"}] * 8, object), allow_pickle=True)


def damage_header(place: Path) -> None:
    (place / "vectors.npy").write_bytes(b"\x93NUMPY\x01\x00")


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04garbage",
        npy(b"{'descr': '|i1', (\n"),
        npy(b"{'descr': '|i1', 'fortran_order': False, 'shape': (99999999999999999999999,), }\n"),
        npy(b"-" * 3000 + b"1\n"),
    ],
)
def test_an_array_that_is_none(copy: Path, rehash: Callable[[Path], None], content: bytes) -> None:
    (copy / "catalogue" / "scales.npy").write_bytes(content)
    rehash(copy)
    with pytest.raises(BundleError, match=r"scales\.npy: cannot be read as \.npy"):
        Recommender(copy)


def test_an_archive_of_arrays_is_no_array(copy: Path, rehash: Callable[[Path], None]) -> None:
    np.savez(copy / "catalogue" / "scales.npz", scales=np.ones(8, np.float16))
    (copy / "catalogue" / "scales.npz").rename(copy / "catalogue" / "scales.npy")
    rehash(copy)
    with pytest.raises(BundleError, match=r"scales\.npy: cannot be read as \.npy"):
        Recommender(copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_lengths, r"lengths\.npy does not cut the 58 bytes of ids\.bin"),
        (damage_scales, "not finite"),
        (damage_priors, r"priors\.npy: float32\(8, 3\), expected float16\(8, 3\)"),
        (damage_width, r"vectors\.npy: int8\(8, 5\), expected int8\(8, 4\)"),
        (damage_vectors, r"vectors\.npy: cannot be read as \.npy"),
        (damage_header, r"vectors\.npy: cannot be read as \.npy"),
    ],
)
def test_a_catalogue_that_contradicts_itself(copy: Path, rehash: Callable[[Path], None], damage, message: str) -> None:
    damage(copy / "catalogue")
    rehash(copy)
    with pytest.raises(BundleError, match=message):
        Recommender(copy)


def test_a_file_overwritten_while_open_does_not_become_a_score(copy: Path) -> None:
    rec = Recommender(copy)
    scales = np.load(copy / "catalogue" / "scales.npy", mmap_mode="r+")
    scales[:] = np.nan
    scales.flush()
    with pytest.raises(BundleError, match="not finite: a file of the open bundle was overwritten"):
        rec.similar("alien", domain="movies")
    with pytest.raises(BundleError, match="not finite: a file of the open bundle was overwritten"):
        rec.score(["alien"], domain="movies")
