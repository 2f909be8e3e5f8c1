"""Does a text give an answer away? For first thoughts (METHOD 1.1) and knowledge entries (METHOD 2).

Guaranteed: a number is found by its value, in digits, as a fraction or in English words; an option by its
letter and by its text; other answers by their words in order, whatever their case, punctuation and articles.
On the safe side: a text that mentions the answer by accident states it too. Not guaranteed: that a paraphrase
is found ("the boy's mother" for a name), or a number behind a sum that is not worked out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from agentdistill.types import Task, TaskKind

_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_OPTION = re.compile(r"\(([A-Z])\)\s*(.+)")
_VERDICTS = frozenset(("yes", "no", "true", "false", "valid", "invalid"))
_DIGITS = re.compile(r"\$?(\d[\d,]*(?:\.\d+)?)")
_RATIO = re.compile(r"(?<![\d/.,])(\d{1,9})\s*/\s*(\d{1,9})(?![\d/]|[.,]\d)")
_FRAC = re.compile(r"\\d?frac\s*\{\s*(\d{1,9})\s*\}\s*\{\s*(\d{1,9})\s*\}")
_NO_NUMBER = re.compile(r"\d[/-]\d+[/-]\d|[A-Za-z]\d|\d[A-Za-z]|\d\s*:\s*\d|[=^]")  # dates, times, formulas
_ARTICLES = frozenset(("a", "an", "the"))
_MAX_DIGITS = 40  # a hostile number must cost nothing


def forms(answer: str, task: Task) -> tuple[str, ...]:
    """The ways in which a text could state this answer to the task: for an option its letter and its text."""
    found = _LETTER.fullmatch(answer.strip()) if task.kind is TaskKind.CHOICE else None
    if found is None:
        return (answer,)
    letter = found.group(1)
    texts = [text.strip() for mark, text in _OPTION.findall(task.question) if mark == letter]
    return (f"({letter})", *texts)


def states(text: str, answer: str) -> bool:
    """True if the text states the answer (one of `forms`)."""
    bare = answer.strip()
    if re.fullmatch(r"\([A-Z]\)", bare):
        return _states_letter(text, bare[1])
    if bare.lower().rstrip(".") in _VERDICTS:
        return _states_verdict(text, bare.lower().rstrip("."))
    value = _value(bare)
    if value is not None:
        return any(value == other for other in _values(text))
    words = _words(bare)
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(_words(text))} "


def _states_letter(text: str, letter: str) -> bool:
    """ "A" and "I" are words as well: alone they count only where an option is spoken of."""
    before = r"(?:option|answer|choice|is|:)\s*\(?" if letter in "AI" else r"(?<![A-Za-z0-9'])\(?"
    return bool(re.search(rf"\({letter}\)|{before}{letter}(?![A-Za-z0-9'])", text))


def _states_verdict(text: str, word: str) -> bool:
    """A plan may mention truth and falsehood; it states one where something *is* said to be it."""
    leads = r"is|are|be|=|:|answer|to|therefore|thus|so|hence|says?"
    return bool(re.search(rf"(?:^|\b(?:{leads})|[=:])[\s,*\"'(]*{word}\b", text.strip().lower()))


def _words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", text.lower())
    return [word for word in words if word not in _ARTICLES] or words


def _value(answer: str) -> Fraction | None:
    """The number a short answer is, or None if it is not one. "18 dollars" is 18, a date is none."""
    if len(answer.split()) > 3 or re.search(
        r"\d[/-]\d+[/-]\d|[A-Za-z]\d|\d[A-Za-z]|\d\s*:\s*\d|[=^]", answer
    ):
        return None
    found = list(_values(answer))
    return found[0] if len(found) == 1 else None


def _values(text: str) -> Iterator[Fraction]:
    """The sizes of all numbers a text holds. Signs are left out: "minus 5" and "5 below" give -5 away too."""
    for pattern in (_RATIO, _FRAC):
        for above, below in pattern.findall(text):
            if int(below):
                yield Fraction(int(above), int(below))
        text = pattern.sub(" ", text)
    for found in _DIGITS.findall(text):
        if len(found) <= _MAX_DIGITS:
            yield Fraction(found.replace(",", ""))
    total = current = 0
    running = False
    for word in [*re.findall(r"[^\W_]+", text.lower()), ""]:
        if word in _UNITS:
            current, running = current + _UNITS[word], True
        elif word == "hundred" and running:
            current *= 100
        elif word in _SCALES and running:
            total, current = total + current * _SCALES[word], 0
        elif word == "and" and running:
            continue
        elif word in _PARTS:
            yield Fraction(total + current if running else 1, _PARTS[word])
            total, current, running = 0, 0, False
        elif running:
            yield Fraction(total + current)
            total, current, running = 0, 0, False


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: number for number, word in enumerate(_SMALL.split())} | {
    word: 10 * number for number, word in enumerate(_TENS.split(), 2)
}
_SCALES = {"thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
_PARTS = {"half": 2, "halves": 2, "thirds": 3, "quarter": 4, "quarters": 4, "fifths": 5, "eighths": 8}
