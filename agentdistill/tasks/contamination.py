"""Which training questions overlap with test questions, so that they can be left out of training.

The rule of the field (Brown et al. 2020, arXiv 2005.14165, appendix C): two texts overlap if they share 13
words in a row, case and punctuation aside. Their n falls with the length of a set's examples, but not below 8
("spurious collisions"); here it falls with the question: if the shorter of two has 8 to 12 words, all of them
must stand in a row in the other. Below 8 words only the same question counts. Signs of mathematics are words
("2 + 3" and "2 - 3" are different questions), and "1,000" is "1000".

Guaranteed: the same question, however it is spaced, capitalised or punctuated, is always found. Not
guaranteed: that a paraphrase, a translation or the same question with other numbers is, nor any run of words
in a language that writes without spaces. Questions made from one template overlap by its wording.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentdistill.tasks.load import TaskSet
from agentdistill.types import Task

LONGEST, SHORTEST = 13, 8
"""Words in a row that make an overlap (GPT-3, appendix C: at most 13, at least 8)."""

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/^=<>%\u00b1\u00b7\u00d7\u00f7\u2212\u2260-\u226f]")
_APOSTROPHES = str.maketrans("", "", "'\u2019`")
_PUNCTUATION = re.compile(r"[\s;:?!\"\u201c\u201d]|(?<!\d)[.,]|[.,](?!\d)|(?<=\d),(?=\d{3})")

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training task that must not be trained on, and the test question that says so.

    `words` is how many words in a row they share; 0 means that the whole question is the same.
    """

    task: str
    test: str
    file: str
    words: int


class HeldOut:
    """The questions of test files, indexed once; `overlap` then takes about as long as reading a question."""

    def __init__(self, files: Iterable[TaskSet]) -> None:
        self._questions = [(file.source, task.id) for file in files for task in file.tasks]
        texts = [task.question for file in files for task in file.tasks]
        self._words = [_split(text) for text in texts]
        self._same: dict[str, int] = {}
        self._whole: dict[int, dict[Gram, int]] = {n: {} for n in range(SHORTEST, LONGEST)}
        for number, (text, words) in enumerate(zip(texts, self._words, strict=True)):
            self._same.setdefault(_same(text), number)
            if len(words) in self._whole:
                self._whole[len(words)].setdefault(tuple(words), number)
        self._runs: dict[int, dict[Gram, int]] = {}

    def overlap(self, task: Task) -> Overlap | None:
        """A test question that this task overlaps with, or None."""
        number = self._same.get(_same(task.question))
        if number is not None:
            return self._found(task, number, 0)
        words = _split(task.question)
        for n, whole in self._whole.items():  # a short test question inside this one
            if whole and (number := _first(words, n, whole)) is not None:
                return self._found(task, number, n)
        n = min(len(words), LONGEST)  # 13 words of this one, or all of a short one, inside a test question
        if n >= SHORTEST and (number := _first(words, n, self._in_a_row(n))) is not None:
            return self._found(task, number, n)
        return None

    def _found(self, task: Task, number: int, words: int) -> Overlap:
        file, test = self._questions[number]
        return Overlap(task.id, test, file, words)

    def _in_a_row(self, n: int) -> dict[Gram, int]:
        """Every n words in a row of the test questions, to the first question that has them."""
        if n not in self._runs:
            index: dict[Gram, int] = {}
            for number, words in enumerate(self._words):
                for gram in _grams(words, n):
                    index.setdefault(gram, number)
            self._runs[n] = index
        return self._runs[n]


def _split(text: str) -> list[str]:
    """A text as overlaps are counted: its words, numbers and signs of mathematics, in lower case."""
    words = _WORD.findall(_plain(text))
    return [word.replace(",", "") if word[0].isdigit() else word for word in words]


def _same(text: str) -> str:
    """Equal for two spellings of one question. Brackets stay: "not (a or b)" is not "not (a) or b"."""
    return _PUNCTUATION.sub("", _plain(text))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)


def _first(words: list[str], n: int, index: dict[Gram, int]) -> int | None:
    return next((index[gram] for gram in _grams(words, n) if gram in index), None)


def _grams(words: list[str], n: int) -> Iterator[Gram]:
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
