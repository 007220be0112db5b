"""Find personal data in one text: URL tokens, e-mail, IBAN, payment card, IP address, phone number.

Every find is checked (mod 97, Luhn, address and numbering plans), so that years, ISBN and version numbers stay.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import phonenumbers

NATIONAL_REGIONS = ("US", "GB")  # whose numbers are recognised without "+" when they are grouped as printed there


class PersonalData(StrEnum):
    """The kinds; the value is the neutral word that takes the place of a find."""

    LINK = "link"
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    IP = "ip"
    PHONE = "phone"


@dataclass(frozen=True)
class Find:
    """One find: characters `start` to `end` (excluded), and what stands there instead."""

    start: int
    end: int
    kind: PersonalData
    replacement: str


_URL = re.compile(r"\b(?:(?:https?|ftp)://|www\.)[^\s<>\[\]\"']+", re.IGNORECASE)
_URL_SECRET = re.compile(  # what in a path can only be a token: a long run of letters and digits, or a UUID
    r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)
_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}(?:xn--[a-z0-9-]{1,59}|[^\W\d_]{2,24})(?![\w-])", re.IGNORECASE
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?=[ -]?[A-Z0-9])", re.IGNORECASE)
_IBAN_LENGTHS = (
    "AD24 AE23 AT20 BA20 BE16 BG22 BR29 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GE22 GI23 GR27 HR21 HU28 "
    "IE22 IL23 IS26 IT27 KZ20 LI21 LT20 LU20 LV21 MC27 ME22 MK19 MT31 NL18 NO15 PL28 PT25 RO24 RS22 SA24 SE24 SI19 "
    "SK24 SM27 TN24 TR26 UA29"
)
_IBAN_LENGTH = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}
_CARD = re.compile(r"(?<![\w.])[2-6](?:[ -]?\d){13,18}(?!\w)")
_CARD_NUMBER = re.compile(  # length by issuer: Visa, Mastercard, American Express, Diners, Discover and UnionPay, JCB
    r"4\d{15}(?:\d{3})?|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6[0-9]\d{14,17}|35\d{14}"
)
_IPV4 = re.compile(r"(?<![\w.])(?<!v )(?<!version )(?=[\d.]*\d\d)(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9a-f:]*\d)[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}(?![\w:])", re.IGNORECASE)
_SEVEN_DIGITS = re.compile(r"\d(?:\D{0,3}\d){6}")
_SEPARATOR = re.compile(r"[\s().\-/]")
_PHONE_WORDS = r"(?:tel|phone|call|mobile|cell|fax|whatsapp)"
_ANNOUNCED = re.compile(rf"{_PHONE_WORDS}\w*[.:\s]*$", re.IGNORECASE)  # before a number of a plan that is known
_ANY_ANNOUNCED = re.compile(  # of whatever country: 7 to 15 digits behind a word that begins so; two years are none
    rf"\b{_PHONE_WORDS}[^\W\d_]*[.:\s]*"
    r"(?!(?:19|20)\d\d\W{1,3}(?:19|20)\d\d(?!\w))(?P<number>\(?\d(?:[\s().\-/]{0,2}\d){6,14})(?!\w)",
    re.IGNORECASE,
)
_ISBN = re.compile(r"isbn[\s:#-]*(?:1[03][\s:]*)?$", re.IGNORECASE)


def find_personal_data(text: str) -> list[Find]:
    """Return the finds in a text, in order, none overlapping; what an earlier kind took is not looked at again."""
    if not any(character.isdigit() for character in text) and not any(
        sign in text.lower() for sign in ("@", "://", "www.")
    ):
        return []
    finds: list[Find] = []
    for search in (_links, _emails, _ibans, _cards, _ips, _phones):
        for find in search(text):
            if all(find.end <= other.start or find.start >= other.end for other in finds):
                finds.append(find)
    return sorted(finds, key=lambda find: find.start)


def luhn(digits: str) -> bool:
    """Return whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1)."""
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def iban_valid(iban: str) -> bool:
    """Return whether an IBAN without spaces has its country's length and check digits (ISO 13616, mod 97)."""
    iban = iban.upper()
    if len(iban) != _IBAN_LENGTH.get(iban[:2]) or not iban.isascii() or not iban.isalnum():
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _links(text: str) -> Iterator[Find]:
    """Yield URLs that carry user info, a query, a fragment or a token in the path: they keep host and plain path."""
    for match in _URL.finditer(text):
        written = match[0].rstrip(".,;:!?)")
        try:
            parts = urlsplit(written if "://" in written else f"//{written}")
            host = parts.hostname or ""
        except ValueError:  # not a URL after all: it cannot be taken apart, so all of it goes
            yield Find(match.start(), match.start() + len(written), PersonalData.LINK, PersonalData.LINK.value)
            continue
        path = _URL_SECRET.sub(PersonalData.LINK.value, parts.path)
        kept = f"{parts.scheme}://{host}{path}" if parts.scheme else f"{host}{path}"
        if parts.username or parts.query or parts.fragment or path != parts.path:
            replacement = PersonalData.LINK.value if find_personal_data(kept) else kept
            yield Find(match.start(), match.start() + len(written), PersonalData.LINK, replacement)


def _emails(text: str) -> Iterator[Find]:
    for match in _EMAIL.finditer(text):
        yield _find(match.start(), match.end(), PersonalData.EMAIL)


def _ibans(text: str) -> Iterator[Find]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTH.get(match[0][:2].upper(), 0)
        shape = re.compile(rf"[A-Za-z0-9](?:[ -]?[A-Za-z0-9]){{{length - 1}}}(?!\w)") if length else None
        whole = shape.match(text, match.start()) if shape else None
        if whole and iban_valid(re.sub("[ -]", "", whole[0])):
            yield _find(whole.start(), whole.end(), PersonalData.IBAN)


def _cards(text: str) -> Iterator[Find]:
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if _CARD_NUMBER.fullmatch(digits) and luhn(digits):
            yield _find(match.start(), match.end(), PersonalData.CARD)


def _ips(text: str) -> Iterator[Find]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield _find(match.start(), match.end(), PersonalData.IP)


def _phones(text: str) -> Iterator[Find]:
    if not _SEVEN_DIGITS.search(text):
        return
    for announced in _ANY_ANNOUNCED.finditer(text):
        yield _find(announced.start("number"), announced.end("number"), PersonalData.PHONE)
    for region in NATIONAL_REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            if _is_phone(text, match, region):
                yield _find(match.start, match.end, PersonalData.PHONE)


def _is_phone(text: str, match: phonenumbers.PhoneNumberMatch, region: str) -> bool:
    written, before = match.raw_string, text[: match.start]
    if written.startswith("+"):
        return True
    if _ISBN.search(before):
        return False
    if _ANNOUNCED.search(before):
        return True
    grouped = phonenumbers.PhoneNumberMatcher(
        written, region, leniency=phonenumbers.Leniency.STRICT_GROUPING
    ).has_next()
    return bool(_SEPARATOR.search(written)) and grouped


def _find(start: int, end: int, kind: PersonalData) -> Find:
    return Find(start, end, kind, kind.value)
