import stat
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import events, items, texts, tiny_dataset

from mtrec_edge_compress.data.personal_data import find_personal_data, iban_valid, luhn
from mtrec_edge_compress.data.privacy import load_key, pseudonym, pseudonymise, scrub, scrub_text, scrub_tokens
from mtrec_edge_runtime.errors import DataError

KEY = bytes(range(32))


def scrubbed(text: str) -> str:
    return scrub_text(text, Counter())


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("write to ann.lee+shop@mail.example.co.uk!", "write to email!"),
        ("card 4111 1111 1111 1111 please", "card card please"),
        ("amex 378282246310005", "amex card"),
        ("to DE89 3704 0044 0532 0130 00 OK", "to iban OK"),
        ("to gb82west12345698765432", "to iban"),
        ("from 192.168.10.254.", "from ip."),
        ("from 2001:db8:85a3::8a2e:370:7334", "from ip"),
        ("call +44 20 7946 0958 now", "call phone now"),
        ("call +1 (212) 555-0123", "call phone"),
        ("Miriam at 781-442-0750 or", "Miriam at phone or"),
        ("tel. 7814420750", "tel. phone"),
        ("my smartphone 7814420750", "my smartphone phone"),
        ("Telefon: 089 12345678, abends", "Telefon: phone, abends"),
        ("Tel.: 030/1234567", "Tel.: phone"),
        ("call 06 12 34 56 78", "call phone"),
        ("Whatsapp 0176 12345678", "Whatsapp phone"),
        ("anna@example.xn--p1ai please", "email please"),
        ("www.shop.example/?user=anna-miller", "www.shop.example/"),
        ("see https://ann:secret@shop.example/a?token=1#x", "see https://shop.example/a"),
        ("see www.shop.example/reset/9f8e7d6c5b4a39281706f5e4d3c2b1a0.", "see www.shop.example/reset/link."),
    ],
)
def test_personal_data_becomes_a_neutral_word(raw: str, clean: str) -> None:
    assert scrubbed(raw) == clean


@pytest.mark.parametrize(
    "title",
    [
        "Blade Runner 2049",
        "1984",
        "12 Angry Men (1957)",
        "2001: A Space Odyssey",
        "The 5.6.7.8's",
        "ISBN 978-0-439-02348-1",
        "ISBN 0-439-02348-3",
        "isbn 212-555-0123",
        "9780439023481",
        "2070612368",
        "Se7en (a.k.a. Seven) (1995)",
        "Apollo 13, 9.11.2001, 2001-09-11, 10/10/2010",
        "version 10.20.30.40",
        "THX 1138",
        "Cell 1990-1995, Mobile 2000 2010",
        "cell 18650 3000mah",
        "Call of Duty 2003",
        "1,000,000 B.C. 1 000 000",
        "4111 1111 1111 1112",
        "iphone 13 128gb 6.1 5000mAh 1920x1080",
        "DE89 3704 0044 0532 0130 01",
        "http://shop.example/books/the-hobbit-50th-anniversary-edition",
        "at 10:20:30",
        "P.O.D. @ the Roxy, M@tt",
        "std::vector",
        "0000 0000 0000 0000",
        "4006381333931",
    ],
)
def test_titles_that_only_look_like_it_stay(title: str) -> None:
    assert scrubbed(title) == title


@given(st.text(alphabet="0123456789", min_size=13, max_size=17))
def test_exactly_one_check_digit_satisfies_luhn(digits: str) -> None:
    assert sum(luhn(digits + str(check)) for check in range(10)) == 1


@given(st.text(alphabet="0123456789", min_size=18, max_size=18))
def test_an_iban_with_its_check_digits_is_found_and_one_with_others_is_not(account: str) -> None:
    check = 98 - int(f"{account}1314" + "00") % 97  # D = 13, E = 14
    iban, wrong = f"DE{check:02d}{account}", f"DE{check % 97 + 1:02d}{account}"
    assert iban_valid(iban)
    assert scrubbed(f"to {iban} today") == "to iban today"
    assert iban == wrong or not iban_valid(wrong)


@given(st.from_regex(r"[a-z0-9]{1,10}(\.[a-z]{1,8})?@[a-z]{2,10}\.(com|org|de)", fullmatch=True), st.text(" abc,"))
def test_every_address_is_found_wherever_it_stands(address: str, around: str) -> None:
    assert address not in scrubbed(f"{around} {address} {around}")


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once = scrubbed(text)
    assert scrubbed(once) == once


@given(st.text())
def test_finds_are_in_order_and_do_not_overlap(text: str) -> None:
    finds = find_personal_data(text)
    assert all(first.end <= second.start for first, second in pairwise(finds))


def test_tokens_of_a_find_are_replaced_one_by_one() -> None:
    counts: Counter[str] = Counter()
    assert scrub_tokens(["call", "+44", "20", "7946", "0958", "ann@x.org"], counts) == [
        *["call", "phone", "phone", "phone", "phone"],
        "email",
    ]
    assert counts == {"phone": 1, "email": 1}


def test_scrub_covers_every_text_column_and_counts() -> None:
    dataset = tiny_dataset(
        items=items({"title": "a@b.org", "description": "x +44 20 7946 0958", "tags": ["c@d.org", "film"]}),
        texts=texts({"text": "e@f.org mug", "tokens": ["e@f.org", "mug"]}),
    )
    result = scrub(dataset)
    item = result.dataset.items.row(0, named=True)
    assert (item["title"], item["description"], item["tags"]) == ("email", "x phone", ["email", "film"])
    assert result.dataset.texts["text"].to_list() == ["email mug"]
    assert result.replaced == {"email": 3, "phone": 1}


def test_a_pseudonym_depends_on_the_key_and_on_the_source() -> None:
    assert pseudonym("shop", "7", KEY) == pseudonym("shop", "7", KEY)
    assert len({pseudonym("shop", "7", KEY), pseudonym("club", "7", KEY), pseudonym("shop", "7", KEY[::-1])}) == 3


def test_pseudonyms_keep_who_did_what() -> None:
    before = tiny_dataset(events=events({"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "ann", "item_id": "b"}))
    after = pseudonymise(before, KEY).events
    users = after["user_id"].to_list()
    assert users[0] == users[2] != users[1]
    assert not {"ann", "bob"} & set(users)
    assert after.drop("user_id").equals(before.events.drop("user_id"))


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "shop.key"
    key = load_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key


@pytest.mark.parametrize(("content", "message"), [("hello", "expected hexadecimal digits"), ("abcd", "2 bytes found")])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "k"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_key(path)
