"""WordPiece on a vocabulary a person can read; the comparison with Hugging Face runs in the development environment."""

import hashlib

import pytest

from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.tokenizer import _CHARACTERS, CACHED_CHARACTERS, WordPiece, split_words

pytestmark = pytest.mark.device

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "play",
    "##ing",
    "##s",
    "the",
    "un",
    "##play",
    "##able",
    "σ",
    "ο",
    "##σ",
    "漢",
    "[",
    "]",
    "sep",
]


@pytest.fixture(scope="module")
def piece() -> WordPiece:
    return WordPiece(VOCAB)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Playing the plays", ["play", "##ing", "the", "play", "##s"]),
        ("UNPLAYABLE", ["un", "##play", "##able"]),
        ("playx the", ["[UNK]", "the"]),
        ("ΟΣ", ["ο", "##σ"]),
        ("the漢the", ["the", "漢", "the"]),
        ("[SEP]", ["[", "sep", "]"]),
        ("thé\u0301", ["the"]),
        ("t\u200bhe\u00adplay", ["the", "##play"]),
        ("\u200b \u0000 \ufeff", []),
        ("play" * 26, ["[UNK]"]),
        ("play" + "s" * 96, ["play", *["##s"] * 96]),
        ("", []),
    ],
)
def test_pieces(piece: WordPiece, text: str, pieces: list[str]) -> None:
    assert piece.tokenize(text) == pieces


def test_encode_adds_the_special_tokens_and_cuts(piece: WordPiece) -> None:
    assert piece.encode("the playing", max_tokens=16) == [2, 7, 4, 5, 3]
    assert piece.encode("the playing", max_tokens=4) == [2, 7, 4, 3]
    assert piece.encode("", max_tokens=4) == [2, 3]


def test_words_know_their_first_piece(piece: WordPiece) -> None:
    words = ["playing", "\u200b", "the", "unplayable", "the"]
    assert piece.encode_words(words, max_tokens=16) == ([2, 4, 5, 7, 8, 9, 10, 7, 3], [1, -1, 3, 4, 7])
    assert piece.encode_words(words, max_tokens=6) == ([2, 4, 5, 7, 8, 3], [1, -1, 3, 4, -1])


def test_vocabulary_comes_back_from_its_file(piece: WordPiece, tmp_path) -> None:
    lines = [*VOCAB, "\u2028", "\u0085"]  # not line ends in vocab.txt
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8", newline="")
    assert WordPiece.load(tmp_path / "vocab.txt").vocab == tuple(lines)


def test_a_lone_surrogate_is_refused(piece: WordPiece) -> None:
    with pytest.raises(InputError, match=r"lone surrogate U\+DE00: decode it as UTF-8"):
        piece.tokenize("the \ude00")


def test_the_character_cache_is_bounded() -> None:
    split_words("".join(map(chr, range(0x3400, 0x3400 + CACHED_CHARACTERS + 100))))
    assert len(_CHARACTERS) <= CACHED_CHARACTERS
    assert split_words("Ünder ΟΔΥΣΣΕΎΣ") == ["under", "οδυσσευσ"]


def test_words_do_not_move_with_pythons_unicode_version() -> None:
    """The digest was made by the tokenizer that equals Hugging Face's; Python 3.11, 3.12, 3.13 differ in Unicode."""
    digest = hashlib.sha256()
    for code in (code for code in range(0x20000) if not 0xD800 <= code < 0xE000):
        digest.update(ascii(split_words(f"a{chr(code)}b {chr(code)}\u302e\u1b44{chr(code)}")).encode())
    assert digest.hexdigest()[:16] == "c1d846abc9cb6422"
