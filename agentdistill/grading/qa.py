"""Short phrases and option letters.

A phrase is right if it equals the gold answer or one of its aliases after SQuAD's normalisation (Rajpurkar
et al. 2016: lower case, no punctuation, no articles, single spaces), with two corrections: a decimal point
and a minus sign before a number stay, so that "3.5" is not "35" and "-5" is not "5". An option is right if
the answer names its letter; naming the option's text instead is wrong, as the task asks for the letter.
Not guaranteed: that another wording of the right answer is recognised. This is exact match, on purpose.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

from agentdistill.types import Task

Verdict = tuple[bool, str, str]
"""correct, method, detail"""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_MINUS = re.compile(r"(?<!\S)[-\u2212](?=\.?\d)")
_DROP = str.maketrans("", "", string.punctuation)

_LETTER = re.compile(
    r"(?i:(?:the\s+)?(?:final\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*)?"
    r"(?:\(([A-Za-z])\)|([A-Za-z])(?=[).:]|$))[).:]?(.*)",
    re.DOTALL,
)
_ANOTHER = re.compile(r"\([A-Z]\)")


def normalise(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower()
    text = _MINUS.sub("\x00", _POINT.sub("\x01", text))  # both survive the removal of punctuation
    text = _ARTICLES.sub(" ", text.translate(_DROP))
    return " ".join(text.replace("\x00", "-").replace("\x01", ".").split())


def option(text: str) -> str | None:
    """The letter that an answer like `B`, `(B)`, `B) because` or `Option B.` names, if it names one."""
    match = _LETTER.fullmatch(text.strip())
    if match is None or _ANOTHER.search(match[3]):
        return None
    return (match[1] or match[2]).upper()


def grade_qa(answer: str | None, gold: str, others: Iterable[str] = ()) -> Verdict:
    if answer is None or not answer.strip():
        return False, "none", "no answer"
    found = normalise(answer)
    for name in (gold, *others):
        wanted = normalise(name)
        # A gold of nothing but articles or punctuation normalises to nothing and must match as it is.
        if found == wanted if wanted else answer.strip() == name.strip():
            return True, "exact", "" if name == gold else f"alias {name[:80]!r}"
    return False, "exact", f"{found[:80]!r} is not {normalise(gold)[:80]!r}"


def f1(answer: str | None, gold: str, others: Iterable[str] = ()) -> float:
    """SQuAD's F1 over words, 0 to 1: the best over the gold answer and its aliases. No answer has 0.

    Beside exact match, not in its place: an answer with one right word of three is no right answer.
    """
    if answer is None or not answer.strip():
        return 0.0
    found = Counter(normalise(answer).split())
    return max(_f1(found, Counter(normalise(name).split())) for name in (gold, *others))


def _f1(found: Counter[str], wanted: Counter[str]) -> float:
    if not found or not wanted:  # SQuAD 2.0: two empty texts are equal
        return float(found == wanted)
    common = (found & wanted).total()
    return 2 * common / (found.total() + wanted.total())


def aliases(task: Task) -> list[str]:
    """Other ways to write a task's answer."""
    found = task.meta.get("aliases", ())
    return [alias for alias in found if isinstance(alias, str)] if isinstance(found, (list, tuple)) else []


def grade_choice(answer: str | None, gold: str) -> Verdict:
    wanted = option(gold)
    if wanted is None:  # a gold that is no letter: compare the words
        return grade_qa(answer, gold)
    if answer is None or not answer.strip():
        return False, "none", "no answer"
    found = option(answer)
    if found is None:
        return False, "choice", "names no option's letter"
    return found == wanted, "choice", "" if found == wanted else f"{found} is not {wanted}"
