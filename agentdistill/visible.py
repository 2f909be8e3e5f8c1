"""Text that others wrote, made safe to show: a model's, its code's, a corpus's.

Guaranteed: what comes back holds no control character but newline and tab, so no escape sequence of any kind;
nothing that turns the direction of writing or takes no room (format characters: bidi controls, zero-width
characters); no half of a surrogate pair, so it can be encoded. Each of these stands as its Python escape,
`\\x1b`, `\\u202e`. Other text comes back as it is.

Not guaranteed: that it can be turned back (a text may spell an escape by itself), nor that a terminal draws
every letter as wide as it should. Markup is not escaped: give it to rich as `Text`, never as a markup string.
"""

from __future__ import annotations

import re
import unicodedata


def visible(text: str, limit: int | None = None) -> str:
    """The text with what must not reach a terminal as visible escapes; newlines and tabs stay.

    Of a longer text the first `limit` characters, and how many were left out.
    """
    if limit is not None and len(text) > limit:
        return f"{visible(text[:limit])} … ({len(text) - limit:,} characters more)"
    # Most texts are printable line by line, which is found out a hundred times faster than letter by letter.
    return "\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n"))


def visible_line(text: str, limit: int | None = None) -> str:
    """The same as one line for a table or a title: white space made single blanks."""
    # Cut first: of 2 MB one line needs no more than its beginning.
    more = limit is not None and len(text) > limit
    return visible(" ".join(text[:limit].split())) + (" …" if more else "")


def _escaped(line: str) -> str:
    return _UNPRINTABLE.sub(lambda found: _shown(found[0]), line)


# What isprintable() rejects is only looked at letter by letter here: blanks of other widths are harmless.
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff]")


def _shown(letter: str) -> str:
    if letter == "\t" or letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")
