"""Which training questions overlap with test questions."""

import time
from pathlib import Path

import pytest

from agentdistill.tasks.contamination import HeldOut
from agentdistill.tasks.load import TaskSet, load_tasks
from agentdistill.types import Task

LONG = "Ada has three boxes of nails and gives every neighbour in her street two of the boxes for free."
SHORT = "In which city was the author of Emma born?"  # 9 words
TINY = "Who wrote Emma?"


def words(question: str, *tests: str) -> int | None:
    """How many words in a row overlap: 0 for the same question, None for no overlap."""
    tasks = tuple(Task(f"t{number}", text, "1") for number, text in enumerate(tests))
    found = HeldOut([TaskSet(tasks, (), "test.jsonl", "")]).overlap(Task("a", question, "1"))
    assert found is None or found.task == "a"
    return None if found is None else found.words


@pytest.mark.parametrize("question", [LONG, SHORT, TINY])
def test_the_same_question_is_found_however_it_is_written(question: str) -> None:
    assert words(question, question) == 0
    assert words(question.upper().replace(" ", "\n  ").rstrip("."), question) == 0
    assert words(question.replace("E", "\uff25"), "other", question) == 0  # a full-width letter


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    row = LONG.split()
    assert words("Once, " + " ".join(row[:13]) + " and went.", LONG) == 13
    assert words("Once, " + " ".join(row[:12]) + " yet went on.", LONG) is None
    assert words("Once, " + " ".join([*row[:6], "old", *row[6:13]]) + " and went.", LONG) is None


def test_a_short_question_overlaps_by_all_its_words() -> None:
    inside = f"Look it up and then tell me, please: {SHORT} Answer with one name only."
    assert words(inside, SHORT) == 9
    assert words(SHORT, inside) == 9
    assert words(SHORT.replace("born", "bred"), SHORT) is None
    assert words(f"Look it up: {TINY}", TINY) is None  # under eight words only the whole question counts


def test_signs_of_mathematics_are_words() -> None:
    assert words("What is 2 - 3?", "What is 2 + 3?") is None
    assert words("Not (a or b)", "Not (a) or b") is None
    assert words("What is 1,000 + 1?", "What is 1000+1 ?") == 0
    assert words("What is 3.5?", "What is 35?") is None


def test_it_says_which_question_of_which_file() -> None:
    files = [
        TaskSet((Task("x", TINY, "1"),), (), "one.jsonl", ""),
        TaskSet((Task("y", LONG, "1"),), (), "two.jsonl", ""),
    ]
    found = HeldOut(files).overlap(Task("a", LONG, "1"))
    assert found is not None and (found.test, found.file) == ("y", "two.jsonl")


def test_real_benchmarks_in_seconds(shared_data: Path) -> None:
    """7,473 questions against 2,000: the one question that both HotpotQA files hold, and the two that share
    a sentence (a train and a plane); 1 s on an idle core."""
    names = ("gsm8k_dev", "math500_test", "hotpotqa_test", "musique_test", "hotpotqa_context")
    tests = [load_tasks(shared_data / f"{name}.jsonl", skip_bad_rows=True) for name in names]
    train = [
        load_tasks(shared_data / f"{name}_train.jsonl", skip_bad_rows=True) for name in ("gsm8k", "hotpotqa")
    ]
    started = time.monotonic()
    held_out = HeldOut(tests)
    found = [overlap for file in train for task in file.tasks if (overlap := held_out.overlap(task))]
    assert time.monotonic() - started < 30
    assert sorted(overlap.words for overlap in found) == [0, 13, 13]
