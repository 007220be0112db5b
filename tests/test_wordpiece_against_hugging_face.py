"""Our WordPiece gives exactly what Hugging Face's gives: tricky texts, every code point, random Unicode."""

import random
import unicodedata
from pathlib import Path

import pytest
from transformers import BertTokenizerFast

from mtrec_edge_compress.tokens import open_tokenizer, words_known
from mtrec_edge_runtime.tokenizer import MAX_WORD_CHARACTERS, WordPiece

TRICKY = [
    # accents and case
    "Café", "Cafe\u0301", "CAFÉ", "naïve façade", "Ångström", "A\u030angstro\u0308m", "\u212bngstrom",
    "İstanbul", "I\u0307stanbul",
    "ıstanbul", "straße STRASSE", "ẞ", "ﬁancée", "Ǆ ǅ ǆ", "Œuvre Æon", "Đorđe", "Łódź", "Ħal", "ŉ", "ǰ",
    "ΐ", "\u1e9b\u0323", "\u1e69",
    "s\u0323\u0307 s\u0307\u0323", "Tiếng Việt", "Ｆｕｌｌｗｉｄｔｈ ＡＢＣ", "ｶﾞ ﾊﾟ", "K (Kelvin)",
    "Ω (Ohm)", "ſ long",
    # Greek, Cyrillic, sigma
    "ΟΔΥΣΣΕΥΣ", "Οδυσσεύς", "ΣΣ Σ Σ.", "ΑΣ\u0301", "ᾼ ᾳ ῼ", "\u1fef \u037e \u0387", "Ёлка ёлка",
    "Й и\u0306", "ѐ Ѐ", "Ԑ Ꙁ ᲀ",
    # other scripts
    "हिन्दी", "क़ \u0958 \u0915\u093c", "বাংলা", "தமிழ்", "ไทยภาษา", "ລາວ", "မြန်မာ", "ខ្មែរ", "བོད",
    "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "հայերեն և",
    "עִבְרִית", "שּׁ \ufb2c", "العَرَبِيَّة", "ﷺ ﻻ", "ٱلْ", "አማርኛ", "ᏣᎳᎩ ꭰꮳ", "ߒߞߏ", "ⴰⵎⴰⵣⵉⵖ", "ꦧꦱꦗꦮ", "𐐀𐐨 Deseret",
    "𞤀𞤣𞤤𞤢𞤥 \U0001e944\U0001e94a",
    "\U0001e000\U0001e02a\u0327", "ⰀⰁ\U0001e008",
    # CJK, Hangul, kana
    "漢字かな交じり文", "中文and英文", "你好，世界。", "「引用」", "㐀㐁", "\U00020000\U0002a6d6",
    "\U0002a700\U0002b81d", "\U0002b820\U0002b900", "\U0002b920",
    "\U0002ceb0 outside", "\U00030000", "\uf900\ufa0e\ufa6a", "\U0002f800\U0002fa1d", "한국어",
    "\u1112\u1161\u11ab", "각\u11a8", "が か\u3099", "ー々〆", "〇", "⺀⼀",
    "ㄅㄆ", "㈱ ㍻ ℃",
    # notes that decompose into marks which are kept
    "\U0001d15e\u1b44", "\U0001d164\u1b44 \U0001d1c0\u1b44", "a\U0001d1bb\u0f39\U0001d15f",
    # controls, zero width, spaces
    "tab\tnew\nline\rback", "nul\x00in\x01side", "\x0b\x0c\x1c\x1d\x1e\x1f", "a\x7fb\x80c\x85d",
    "zero\u200bwidth\u200cnon\u200djoin", "\ufeffBOM\ufeff",
    "soft\u00adhyphen", "nb\u00a0space\u202fthin\u2009x\u3000wide", "line\u2028para\u2029end",
    "\u1680ogham\u180emongol", "ltr\u200e\u202artl\u200f\u202e",
    "word\u2060joiner\u2061\u2064", "\u2066iso\u2069", "\ufff9inter\ufffaline\ufffb", "repl\ufffdaced",
    "obj\ufffcect", "\ue000private\uf8ff", "\U000f0000\U0010fffd",
    "\U000e0001\U000e0041tag", "var\ufe0fiation \ufe00 \U000e0100", "\uffff\ufffe\U0001ffff",
    "\u0378\u0379 unassigned", "\U000e0080", "\u061carabic\u06dd",
    "\U000110bd\U000110cd", "\U0001d173music\U0001d17a", "   ", "", "\n\n", "\u200b",
    # combining marks
    "a\u0300\u0301\u0302b", "\u0301start", "q\u0345\u0301",
    "\U0001d15f\U0001d165 \U0001d165\U0001d16d\U0001d165\U0001d16e", "\u302e\u302f\u1b44\u302e",
    "\u1b44\u0334\u1baa",
    "a\u302e\u200b\u1b44", "\u08d4\u08e1 \u08e3", "\u20dd enclosed\u20e0", "\u0d3e\u0d57",
    "\U00011935\U00011930 \U00011938", "\U000113c2\U000113b8", "\u1dfb\u302e\u1dfb",
    # symbols and emoji
    "😀😃", "👩‍👩‍👧‍👦 family", "👍🏽", "🇺🇳🇪🇺", "❤️ ❤", "1️⃣ #️⃣", "$9.99 £5 €3 ¥2 ₿1",
    "a+b=c <d> ^e `f` |g| ~h", "±×÷ ∑∫√", "©®™", "½ ¼ Ⅷ ⑩ ²", "°C µm №5",
    "…—–‒―", "“quoted” ‘single’ «guillemets» „low‟", "¿Qué? ¡Sí!", "·•‧", "§¶†‡", "₀₁ ⁿ", "→⇒↔", "█▓░",
    "𝒳𝕐𝟙",
    # punctuation, numbers, special tokens as plain text
    "don't won't it's", "e-mail@example.org", "http://a.b/c?d=e&f#g", "C++ C# .NET", "1,234.56", "3.14e-10",
    "U.S.A.", "a_b__c", "...!!!???", "(a)[b]{c}",
    "[SEP]", "[CLS] hello [SEP]", "[MASK]ed [PAD] [UNK]", "[ SEP ]", "[unused0]", "##ing ## #ing",
    "[sep][SEP]", "back\\slash", "\"'\"",
    # lengths
    "a" * 100, "a" * 101, "é" * 100, "e\u0301" * 100, "e\u0301" * 101, "x" * 99 + "!" + "y" * 102,
    "漢" * 150, "\u200b".join("a" * 101), "ab " * 400,
]  # fmt: skip

POOLS = [
    range(0x20, 0x7F), range(0x80, 0x600), range(0x300, 0x370), range(0x8D0, 0x1200), range(0x1AB0, 0x2000),
    range(0x2000, 0x2C00),
    range(0x3000, 0x3100), range(0x4E00, 0x4F00), range(0xAC00, 0xAD00), range(0xF900, 0x10000),
    range(0x10000, 0x12000),
    range(0x1D100, 0x1D200), range(0x1E000, 0x1E030), range(0x1E900, 0x1E960), range(0x1F300, 0x1FA00),
    range(0x110000),
]  # fmt: skip


def is_scalar(code: int) -> bool:
    return not 0xD800 <= code < 0xE000


def small_vocabulary() -> list[str]:
    """Special tokens, some words and pieces, and the characters of normalised text, first and continuing."""
    words = "the and hello world sep cls mask unk pad cafe stras play ##ing ##se ##ed ##oo un ##able 漢字 οδυ ##σσε"
    pieces = [f"{mark}{chr(code)}" for code in range(0x21, 0x3100) if is_scalar(code) for mark in ("", "##")]
    rest = [f"{mark}{chr(code)}" for code in range(0x3100, 0x20000, 3) if is_scalar(code) for mark in ("", "##")]
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split(), *pieces, *rest]))


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    tokens = [token for token in small_vocabulary() if "\n" not in token and "\r" not in token]
    path.write_text("\n".join(tokens) + "\n", "utf-8", newline="")
    return path


@pytest.fixture(scope="module")
def ours(vocab: Path) -> WordPiece:
    return WordPiece.load(vocab)


@pytest.fixture(scope="module")
def reference(ours: WordPiece) -> BertTokenizerFast:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    core = Tokenizer(models.WordPiece({token: at for at, token in enumerate(ours.vocab)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing("[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return BertTokenizerFast(tokenizer_object=core, split_special_tokens=True)


def assert_equal(ours: WordPiece, reference: BertTokenizerFast, texts: list[str]) -> None:
    expected = reference(texts, split_special_tokens=True)["input_ids"]
    wrong = [
        f"{text!a:.200}: ours {ours.tokenize(text)[:20]!a}, reference {reference.convert_ids_to_tokens(ids)[1:20]!a}"
        for text, ids in zip(texts, expected, strict=True)
        if ours.encode(text, max_tokens=100_000) != ids
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ:\n" + "\n".join(wrong[:10])


def test_the_reference_is_berts_own_tokenizer(vocab: Path, reference: BertTokenizerFast) -> None:
    own = BertTokenizerFast(vocab_file=str(vocab))
    texts = [text for text in TRICKY if "[" not in text]
    assert own(texts)["input_ids"] == reference(texts)["input_ids"]


def test_tricky_texts(ours: WordPiece, reference: BertTokenizerFast) -> None:
    assert len(TRICKY) >= 150
    assert_equal(ours, reference, TRICKY)
    assert_equal(ours, reference, [text.upper() for text in TRICKY])
    assert_equal(ours, reference, [f"The {text}\u0301 {text} end" for text in TRICKY])


def test_special_tokens_in_a_users_text_are_plain_text(ours: WordPiece, reference: BertTokenizerFast) -> None:
    assert ours.tokenize("[SEP]") == ["[", "sep", "]"]
    assert reference("[SEP]", split_special_tokens=True).tokens() == ["[CLS]", "[", "sep", "]", "[SEP]"]


def test_every_code_point(ours: WordPiece, reference: BertTokenizerFast) -> None:
    """Every assigned code point, and a share of the unassigned and private ones, alone and inside a word."""
    for start in range(0, 0x110000, 0x8000):
        codes = [c for c in range(start, start + 0x8000) if is_scalar(c)]
        kept = [c for c in codes if unicodedata.category(chr(c)) not in ("Cn", "Co") or c % 61 == 0]
        assert_equal(ours, reference, [f"{chr(c)} a{chr(c)}b" for c in kept])


def test_every_combining_character_meets_others(ours: WordPiece, reference: BertTokenizerFast) -> None:
    marks = [chr(c) for c in range(0x300, 0x1F000) if unicodedata.category(chr(c))[0] == "M"]
    partners = "\u0334\u0327\u0345\u302e\u1b44\U0001d165\u08d4"
    assert_equal(ours, reference, [f"a{p}{mark}{p}b {mark}{p}{mark}" for mark in marks for p in partners])


def test_random_documents(ours: WordPiece, reference: BertTokenizerFast) -> None:
    rng = random.Random(20240229)
    texts = []
    for _ in range(5000):
        pools = rng.choices(POOLS, k=3)
        codes = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 80))]
        texts.append("".join(chr(code) for code in codes if is_scalar(code)))
    assert_equal(ours, reference, texts)


def test_random_texts_cut_at_every_length(ours: WordPiece, reference: BertTokenizerFast) -> None:
    rng = random.Random(1)
    for max_tokens in range(3, 40):
        text = " ".join(rng.choice(TRICKY) for _ in range(8))
        cut = reference(text, split_special_tokens=True, truncation=True, max_length=max_tokens)["input_ids"]
        assert ours.encode(text, max_tokens=max_tokens) == cut


def test_given_words_keep_their_pieces(ours: WordPiece, reference: BertTokenizerFast) -> None:
    rng = random.Random(2)
    for _ in range(200):
        words = [rng.choice([word for text in TRICKY for word in text.split()]) for _ in range(rng.randint(1, 12))]
        limit = rng.randint(4, 64)
        found = reference(words, is_split_into_words=True, split_special_tokens=True, truncation=True, max_length=limit)
        ids, firsts = ours.encode_words(words, max_tokens=limit)
        assert ids == found["input_ids"]
        owners = found.word_ids()
        assert firsts == [owners.index(at) if at in owners else -1 for at in range(len(words))]


def test_long_words_are_unknown_as_in_the_reference(ours: WordPiece, reference: BertTokenizerFast) -> None:
    for length in (MAX_WORD_CHARACTERS - 1, MAX_WORD_CHARACTERS, MAX_WORD_CHARACTERS + 1):
        assert_equal(ours, reference, ["b" * length, "é" * length, f"{'c' * length} d", f"e{'漢' * length}"])


def test_a_tokenizer_whose_words_begin_with_a_space_reads_words_one_by_one(tmp_path: Path) -> None:
    """RoBERTa's refuses split words without `add_prefix_space`; each word then has the pieces it has in a sentence."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["red running shoes", "blue shoes for running"], vocab_size=300, special_tokens=special)
    trained.save_model(str(tmp_path))
    RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    RobertaConfig(vocab_size=300).save_pretrained(tmp_path)
    tokenizer = open_tokenizer(str(tmp_path))
    ids, first = tokenizer.encode_words(["red", "shoes"], max_tokens=16)
    assert ids == tokenizer.encode(" red shoes", max_tokens=16) and 0 < first[0] < first[1]
    assert words_known(tokenizer) >= 261
