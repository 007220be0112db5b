"""How an item's fields become the one text that is encoded: the single definition for training and serving."""

from collections.abc import Sequence


def item_text(title: str, description: str = "", tags: Sequence[str] = ()) -> str:
    """Join an item's fields, most telling first, so that truncation cuts the least telling.

    >>> item_text("Alien", "A crew meets a creature.", ("space", "horror"))
    'Alien. space, horror. A crew meets a creature.'
    """
    parts = [title.strip(), ", ".join(tag.strip() for tag in tags if tag.strip()), description.strip()]
    return ". ".join(part for part in parts if part)
