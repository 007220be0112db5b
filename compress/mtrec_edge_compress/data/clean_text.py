"""Clean one text: encoding mistakes, markup, control characters, white space. Changes nothing that is right."""

import html
import re
import unicodedata
from html.parser import HTMLParser

import ftfy

_FIXES = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_INLINE = "a abbr b big cite code em font i mark small span strong sub sup u"
_BLOCK = "blockquote br center dd div dl dt h1 h2 h3 h4 h5 h6 hr img li ol p pre script style table td th tr ul"
_TAG = re.compile(rf"</?(?:{'|'.join((_INLINE + ' ' + _BLOCK).split())})(?:\s[^<>]*)?/?>|<!--", re.IGNORECASE)
_DROPPED_CATEGORIES = {"Cc", "Cf", "Co", "Cs"}
_JOINERS = "\u200c\u200d"  # Cf, but they shape Persian, Indic scripts and emoji


def clean_text(text: str) -> str:
    """Return the text without markup, mojibake, control characters and surplus white space.

    Only known HTML elements count as markup, so "I <3 you" stays; a text that is nothing but markup is kept as it is.

    >>> clean_text("<p>The Caf\\u00c3\\u00a9 &amp; the <b>bar</b></p>")
    'The Café & the bar'
    """
    if text.isascii() and text.isprintable() and "<" not in text and "&" not in text:
        return " ".join(text.split())
    written = _unescape(_unescape(text))
    return _repair(_without_markup(written)) or _repair(written)


def _repair(text: str) -> str:
    fixed = ftfy.fix_text(text, _FIXES)
    return " ".join("".join(_visible(character) for character in fixed).split())


def _unescape(text: str) -> str:
    """Resolve entities that end with a semicolon; `html.unescape` alone would also turn "Tom&para" into "Tom¶"."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    dropped = unicodedata.category(character) in _DROPPED_CATEGORIES and character not in _JOINERS
    return "" if dropped else character


def _without_markup(text: str) -> str:
    if not _TAG.search(text):
        return text
    parser = _Words()
    parser.feed(text.replace("&", "&amp;"))  # entities are already resolved: keep every "&" as it is
    parser.close()
    return "".join(parser.parts)


class _Words(HTMLParser):
    """Collect the words of a page; unknown elements are kept as text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0  # depth inside script and style

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        self._separate(tag, self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag, self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style") and self.hidden > 0
        self._separate(tag, f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)

    def _separate(self, tag: str, written: str) -> None:
        if tag in _BLOCK.split():
            self.parts.append(" ")
        elif tag not in _INLINE.split() and not self.hidden:
            self.parts.append(written)
