"""Mathematical answers: what can be decided without a computer algebra system.

`grade_plainly` settles missing answers, equal texts and plain numbers; for all others it returns None and a
worker compares them as mathematics (`_worker.py`, on math-verify). The rules, in this order:

- None, empty text and "None" (what a crashed run leaves behind) are wrong. So is an answer that holds `__`.
- What surrounds the answer is dropped from both sides: `\\boxed{}`, `$...$`, "the answer is", currency and
  percent signs, a full stop, thousands commas, a unit in words after a number. A percent sign is a unit like
  others: "50%" equals "50", and neither equals "0.5".
- Equal texts, spacing and cosmetic LaTeX aside, are right.
- Numbers: integers and fractions compare exactly. If the gold answer is an integer and the answer a decimal,
  1e-6 relative absorbs the rounding of floats. If the gold answer is itself a decimal, or a decimal stands
  for a fraction, the reference's tolerance of 1e-4 relative holds (Kang et al. 2025, their math scorer), or
  equality once the answer is rounded to the places of the gold answer, if these are two or more. The
  reference's third rule, that factors of 100 do not matter, is not taken over.

A sentence that mentions a number is not an answer; "42 apples" is, "5 or 6" and "5 million" are not 5.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from agentdistill.grading.qa import Verdict, grade_choice

_NOTHING = frozenset(("none", "null", "nan", "undefined", "error", "n/a"))
_PREFIX = re.compile(r"(?i)^(?:so\s+|therefore,?\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*:?\s*")
_WRAPPED = re.compile(r"(?s)^\s*(?:\$\$?(?P<a>[^$]*)\$\$?|\\\((?P<b>.*)\\\)|\\\[(?P<c>.*)\\\])\s*$")
_NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d{0,400})(?P<part>\.\d{0,400})?(?P<exp>[eE][-+]?\d{1,3})?"
)
_FRACTION = re.compile(
    r"(?P<sign>[-+\u2212]?)(?:(\d{1,400})/(\d{1,400})|\\frac\{?(\d{1,400})\}?\{?(\d{1,400})\}?)"
)
_LOOSE = re.compile(r"(?<=[-+\u2212/])\s+|\s+(?=/)")  # never between digits: "1 1/2" is not 11/2
_MIXED = re.compile(r"([-\u2212]?)(\d{1,400})\s+(\d{1,400}/\d{1,400})")
_OPTION = re.compile(r"\([A-Z]\)")
_BARE_FRAC = re.compile(r"\\frac(\d)(\d)(?!\d)")
_UNIT = re.compile(
    r"(?s)^(?P<number>.*\d[.,]?)\s*(?P<unit>(?:[A-Za-z\u00b0\u00b5]+[/ ]?){1,3}"
    r"(?:\^?\{?[23]\}?|\u00b2|\u00b3)?)$"
)
# Words after a number that change it, or that show that it is not the whole answer.
_NO_UNIT = frozenset(
    word
    for line in (
        "hundred thousand million billion trillion dozen half third quarter score k m bn mn",
        "or and to plus minus times over by of squared cubed factorial choose mod sqrt rad",
        "pi e i x y z n if when not either except",
    )
    for word in line.split()
)
_SENTENCE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_COSMETIC = re.compile(r"(?<!\\)\\(?:left|right|,|!|;|:| |quad|displaystyle|limits)(?![A-Za-z])")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|textrm|mbox|mathbf)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\u00b0")


def grade_plainly(answer: str | None, gold: str) -> Verdict | None:
    """The verdict, or None if a worker has to find it."""
    if answer is None or not answer.strip():
        return False, "none", "no answer"
    found, wanted = strip(answer), strip(gold)
    if not found or (found.lower() in _NOTHING and found.lower() != wanted.lower()):
        return False, "none", f"{answer.strip()[:20]!r} is no answer"
    if _OPTION.fullmatch(wanted):  # some MATH answers are the letter of an option
        return grade_choice(found, wanted)
    if _key(found) == _key(wanted):
        return True, "text", ""
    x, y = number(found), number(wanted)
    if x is not None and y is not None:
        right = same_number(x, y, inexact=_is_decimal(found) or _is_decimal(wanted), places=_places(wanted))
        return right, "number", "" if right else f"{found[:40]} is not {wanted[:40]}"
    if y is not None and _SENTENCE.search(found):  # as mathematics "it is not 0" is a product, and it is 0
        return False, "text", "a sentence, not a number"
    if "__" in answer:
        return False, "refused", "an answer with '__' is not handed to the parser"
    return None


def strip(text: str) -> str:
    """Drop what surrounds an answer and carries no value."""
    text = _PREFIX.sub("", text.strip().replace("\\$", "$"))
    for _ in range(3):  # a box in dollar signs, dollar signs in a box
        before = text
        text = _boxed(text)
        wrapped = _WRAPPED.match(text)
        if wrapped:
            text = next(group for group in wrapped.groups() if group is not None)
        text = text.strip().rstrip(".").strip()
        if text == before:
            break
    text = _DEGREES.sub("", _WORDS.sub(r" \1 ", _COSMETIC.sub("", text)))
    text = text.replace("dfrac", "frac").replace("tfrac", "frac").replace("\\%", "%")
    text = text.strip().removesuffix("%").strip()
    text = re.sub(r"^([-+\u2212]?)\s*[$\u20ac\u00a3\u00a5]\s*(?=[-.\d])", r"\1", text)
    unit = _UNIT.match(text) if len(text) <= 200 else None
    if unit and number(unit["number"].strip().rstrip(",.")) is not None:
        words = set(re.split(r"[/ ]+", unit["unit"].lower().rstrip("^{}23\u00b2\u00b3 ")))
        glued = not text[len(unit["number"]) :].startswith(" ")
        if not words & _NO_UNIT and not (glued and unit["unit"][0] in "eE"):
            text = unit["number"].strip().rstrip(",.")
    return text


def number(text: str) -> Fraction | None:
    """The value of a plain number or fraction, None for anything else. Never slow: digits are limited."""
    mixed = _MIXED.fullmatch(text)
    if mixed:
        rest = number(mixed[3])
        return None if rest is None else (int(mixed[2]) + rest) * (-1 if mixed[1] else 1)
    text = _LOOSE.sub("", text).replace("{,}", ",")
    match = _FRACTION.fullmatch(_BARE_FRAC.sub(r"\\frac{\1}{\2}", text))
    if match:
        over, under = (match[2], match[3]) if match[2] else (match[4], match[5])
        if int(under) == 0:
            return None
        value = Fraction(int(over), int(under))
        return -value if match["sign"] in ("-", "\u2212") else value
    match = _NUMBER.fullmatch(text)
    if not match or not any(char in "0123456789" for char in (match["whole"] + (match["part"] or ""))):
        return None
    digits = match["whole"].replace(",", "") or "0"
    if not (digits + (match["part"] or "")).replace(".", "").isascii():
        return None
    value = Fraction(Decimal(f"{digits}{match['part'] or ''}{match['exp'] or ''}"))
    return -value if match["sign"] in ("-", "\u2212") else value


def same_number(answer: Fraction, gold: Fraction, *, inexact: bool, places: int = 0) -> bool:
    """Equality, with the tolerances of the module's docstring if one side is `inexact`, a decimal."""
    if answer == gold:
        return True
    if not inexact or answer.denominator == gold.denominator == 1:
        return False
    if gold.denominator == 1:
        return abs(answer - gold) <= Fraction(1, 10**6) * abs(gold)
    if abs(answer - gold) <= Fraction(1, 10**4) * abs(gold):
        return True
    return places >= 2 and round(answer * 10**places) == gold * 10**places


def _is_decimal(text: str) -> bool:
    return "/" not in text and "frac" not in text and ("." in text or "e" in text.lower())


def _places(text: str) -> int:
    return len(text.partition(".")[2]) if _is_decimal(text) and "e" not in text.lower() else 0


def _key(text: str) -> str:
    """Spacing is dropped, but not between letters or digits: "1 2" is not "12"."""
    return re.sub(r"\s+(?=\W)|(?<=\W)\s+", "", text)


def _boxed(text: str) -> str:
    """What stands in the last `\\boxed{...}`, if there is one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth = 0
    for index in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start + 7 : index]
    return text
