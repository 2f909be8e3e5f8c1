"""Verdicts: what is right, what only looks right, and what an answer must never be able to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill.errors import GradingError, UsageError
from agentdistill.grading import Grader, comparer, grade_math
from agentdistill.grading.math import grade_plainly, number
from agentdistill.grading.qa import f1, grade_choice, grade_qa, normalise, option
from agentdistill.types import Task, TaskKind


@pytest.fixture(scope="module")
def judge() -> Iterator[Grader]:
    with Grader(seconds=20.0) as made:
        yield made


def task(gold: str, kind: TaskKind = TaskKind.MATH, **meta: object) -> Task:
    return Task("t", "q", gold, kind, meta=meta)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        ("42.0", "42"),
        ("042", "42"),
        (" 42. ", "42"),
        ("1,234,567", "1234567"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("\u22125", "-5"),
        ("\\boxed{42}", "42"),
        ("$\\boxed{\\frac{1}{2}}$", "0.5"),
        ("The answer is 42.", "42"),
        ("42 apples", "42"),
        ("12 cm^2", "12"),
        ("10 km/h", "10"),
        ("30^\\circ", "30"),
        ("12\\text{ cm}", "12"),
        ("50%", "50"),
        ("50", "50\\%"),
        ("1e3", "1000"),
        ("3/6", "1/2"),
        ("\\dfrac12", "0.5"),
        ("1 1/2", "1.5"),
        ("17.999999999996", "18"),
        ("33.333333333", "33.33"),
        ("0.3333333333", "1/3"),
        ("0.1428571", "\\frac{1}{7}"),
    ],
)
def test_right_numbers_need_no_worker(answer: str, gold: str) -> None:
    verdict = grade_plainly(answer, gold)
    assert verdict is not None
    assert verdict[0], verdict


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("50", "0.5"),
        ("0.5", "50"),
        ("50%", "0.5"),
        ("5000", "50"),
        ("-5", "5"),
        ("18.001", "18"),
        ("12345679", "12345678"),
        ("12345679.0", "12345678"),
        ("100000000000000000000000000000001", "100000000000000000000000000000000"),
        ("0.0001", "0"),
        ("0.333", "1/3"),
        ("33.34", "33.33"),
        ("5 million", "5"),
        ("5 or 6", "5"),
        ("5 to 7", "5"),
        ("5!", "5"),
        ("5e", "5"),
        ("1 2", "12"),
        ("2x", "2"),
        ("I am not sure, but 42", "42"),
        ("Error at line 5", "5"),
        ("I think it is not 0", "0"),
        ("six", "6"),
        ("(5)(6)", "5"),
        ("nan", "0"),
        ("inf", "1"),
        ("True", "1"),
    ],
)
def test_wrong_numbers_are_wrong(judge: Grader, answer: str, gold: str) -> None:
    assert not judge.grade(answer, task(gold))[0]


@pytest.mark.parametrize("answer", [None, "", "  ", "None", "none", "null", "Error", "\\boxed{}", "$$"])
@pytest.mark.parametrize("gold", ["5", "x", "0", "\\text{Evelyn}"])
def test_crashed_and_empty_answers_are_wrong(judge: Grader, answer: str | None, gold: str) -> None:
    """A defect of the reference (METHOD 1.8): a crashed run, "None", was scored as correct."""
    assert not judge.grade(answer, task(gold))[0]


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_compare_exactly(a: int, b: int) -> None:
    verdict = grade_plainly(str(a), str(b))
    assert verdict is not None
    assert verdict[0] == (a == b)


@given(st.integers(-(10**12), 10**12))
def test_the_ways_to_write_an_integer_are_equal(n: int) -> None:
    for text in (f"{n:,}", f"{n}.0", f"${n:,}.00", f" {n} apples.", f"\\boxed{{{n}}}", f"the answer is: {n}"):
        verdict = grade_plainly(text, str(n))
        assert verdict is not None
        assert verdict[0], text


@given(st.fractions(), st.sampled_from([100, 10, 1000]))
def test_scaling_is_never_forgiven(value: object, factor: int) -> None:
    if value:
        verdict = grade_plainly(str(value * factor), str(value))
        assert verdict is not None
        assert not verdict[0]


@settings(max_examples=300)
@given(
    st.text(max_size=80) | st.text("0123456789.,/-+eE$%\\{} frac", max_size=40),
    st.text(min_size=1, max_size=20),
)
def test_any_text_is_judged_or_passed_on(answer: str, gold: str) -> None:
    grade_plainly(answer, gold)
    number(answer)
    grade_qa(answer, gold)
    grade_choice(answer, gold)


# -- mathematics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("sqrt(2)/2", "\\frac{\\sqrt{2}}{2}"),
        ("0.7071067811865476", "\\frac{\\sqrt{2}}{2}"),
        ("3.14159", "\\pi"),
        ("x**2 + 1", "x^2+1"),
        ("(x+1)*(x-1)", "x^2 - 1"),
        ("(x+1)(x-1)", "x^2 - 1"),
        ("(3, pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("[1, 2]", "2,1"),
        ("{2, 1}", "1, 2"),
        ("\\{1,2\\}", "\\left\\{2,1\\right\\}"),
        ("x = 5", "5"),
        ("2**10", "1024"),
        ("p-q", "p - q"),
        ("Evelyn", "\\text{Evelyn}"),
        ("(-\\infty, -8]\\cup [8,\\infty)", "(-\\infty,-8]\\cup [8,\\infty)"),
        ("Matrix([[1], [2]])", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("3 + 4*I", "3+4i"),
        ("(3+4j)", "3+4i"),
        ("A", "\\text{(A)}"),
        ("\\frac{3}{4}x", "0.75x"),
        ("cot(x)", "\\cot x"),
    ],
)
def test_equal_mathematics_is_right(judge: Grader, answer: str, gold: str) -> None:
    verdict = judge.grade(answer, task(gold))
    assert verdict[0], verdict


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("(2,1)", "(1,2)"),
        ("{1,2}", "(1,2)"),
        ("[1,2]", "(1,2)"),
        ("(1,2)", "[1,2]"),
        ("3.14", "\\pi"),
        ("3", "\\pm 3"),
        ("x + 1", "x + 2"),
        ("1, 2, 3", "1, 2"),
        ("B", "\\text{(A)}"),
        ("x = 6", "5"),
    ],
)
def test_other_mathematics_is_wrong(judge: Grader, answer: str, gold: str) -> None:
    verdict = judge.grade(answer, task(gold))
    assert not verdict[0], verdict


# -- hostile answers ------------------------------------------------------------------------------


def test_an_answer_that_never_ends_costs_its_time_and_no_more() -> None:
    with Grader(seconds=1.0) as judge:
        judge.grade("x", task("y"))  # start the worker outside the clock
        started = time.monotonic()
        assert judge.grade("10**10**8", task("8"))[:2] == (False, "timeout")
        assert time.monotonic() - started < 10
        assert judge.grade("2**3", task("8"))[0]  # the worker was replaced


def test_too_long_an_answer_is_wrong_for_every_kind(judge: Grader) -> None:
    for kind in (TaskKind.MATH, TaskKind.QA, TaskKind.CHOICE):
        assert judge.grade("5" * 10_001, task("5", kind))[:2] == (False, "too_long")


def test_deep_nesting_is_wrong_and_ends() -> None:
    with Grader(seconds=1.0) as judge:
        for answer in (
            "(" * 9_999,
            "-" * 9_999 + "5",
            "{" * 5_000,
            "\\frac" * 1_000,
            "$" * 9_999,
            "x^" * 4_000,
        ):
            assert not judge.grade(answer, task("5"))[0]


HOSTILE = [
    "__import__('os').system('touch {canary}')",
    "().__class__.__base__.__subclasses__()",
    "open('{canary}', 'w')",
    "exec(\"open('{canary}','w')\")",
    "eval('open(chr(47))')",
    "Symbol('x').func(open('{canary}','w'))",
    "sqrt(open('{canary}','w'))",
    "\\input{{{canary}}}",
    "\\write18{{touch {canary}}}",
    "$\\text{{exec}}(open('{canary}','w'))$",
    "1 if open('{canary}','w') else 2",
    "[open('{canary}','w') for i in (1,)]",
    "(lambda: open('{canary}','w'))()",
    "f\"{{open('{canary}','w')}}\"",
    "1 + 1 + open('{canary}','w')",
    "Matrix(open('{canary}','w'))",
    "import os; os.system('touch {canary}')",
    "answer: 1+1.open('{canary}','w')",
]


def test_no_answer_is_run(tmp_path: Path, judge: Grader) -> None:
    """A defect of the reference (METHOD 1.8): sympify ran what it was given."""
    canary = tmp_path / "canary"
    for text in HOSTILE:
        answer = text.format(canary=canary)
        # A gold that is no plain number, so that the answer gets as far as it can.
        for gold in ("x + 1", "5"):
            assert not judge.grade(answer, task(gold))[0], answer
    assert not canary.exists()


def test_the_parsers_themselves_run_nothing(tmp_path: Path) -> None:
    """Behind the refusal of `__`: straight into the worker's comparison, in a process of its own."""
    canary = tmp_path / "canary"
    program = (
        "import sys\nfrom agentdistill.grading._worker import compare\n"
        "for answer in sys.argv[1:]:\n    print(compare(answer, 'x + 1')[0], compare('x + 1', answer)[0])\n"
    )
    answers = [text.format(canary=canary) for text in HOSTILE]
    done = subprocess.run(
        [sys.executable, "-c", program, *answers], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["False"] * 2 * len(answers)
    assert not canary.exists()


@pytest.mark.parametrize("who", ["process", "fork"])
def test_a_worker_that_dies_is_a_verdict_and_replaced(who: str) -> None:
    with Grader(seconds=30.0) as judge:
        assert judge.grade("x+x", task("2x"))[0]
        worker = judge._slots.get()
        assert worker is not None
        if who == "process":
            os.killpg(worker._process.pid, signal.SIGKILL)
            worker._process.wait()
        else:
            # Stopped first, so that it is gone only after it has been given its job.
            os.kill(worker._fork, signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (worker._fork, signal.SIGKILL)).start()
        judge._slots.put(worker)
        assert judge.grade("x+x", task("2x"))[:2] == (False, "died")
        assert judge.grade("x+x", task("2x"))[0]


def test_a_fork_killed_while_it_reads_costs_the_next_answer_nothing() -> None:
    with Grader(seconds=30.0) as judge:
        assert judge.grade("x+x", task("2x"))[0]
        worker = judge._slots.get()
        assert worker is not None
        assert worker._process.stdin is not None
        worker._process.stdin.write(b'"job": 1, "answer": "x", "gold": "y", "seconds": 5}\n')
        judge._slots.put(worker)
        assert judge.grade("x+x", task("2x"))[0]


def test_a_killed_comparison_costs_no_new_start() -> None:
    with Grader(seconds=0.5) as judge:
        judge.grade("x", task("y"))
        first = judge._slots.get()
        assert first is not None
        judge._slots.put(first)
        process = first._process.pid
        for _ in range(3):
            assert judge.grade("10**10**8", task("8"))[:2] == (False, "timeout")
        started = time.monotonic()
        assert judge.grade("x+x", task("2x"))[0]
        assert time.monotonic() - started < 0.5
        assert first._process.pid == process


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next() -> None:
    """A fork that was stopped past its deadline leaves its job in the pipe to the next one."""
    with Grader(seconds=0.5) as judge:
        judge.grade("x", task("y"))
        worker = judge._slots.get()
        assert worker is not None
        os.kill(worker._fork, signal.SIGSTOP)
        judge._slots.put(worker)
        assert judge.grade("x+x", task("2x"))[:2] == (False, "timeout")
        assert not judge.grade("x+x", task("3x"))[0]
        assert judge.grade("x+x", task("2x"))[0]


def test_nothing_of_a_closed_grader_goes_on() -> None:
    with Grader(seconds=0.5) as judge:
        judge.grade("x", task("y"))
        worker = judge._slots.get()
        assert worker is not None
        fork = worker._fork
        judge._slots.put(worker)
    for _ in range(50):
        if not Path(f"/proc/{fork}").exists() or "Z" in Path(f"/proc/{fork}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("the fork is still there")


def test_a_worker_that_cannot_start_is_an_error_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparer.sys, "executable", "/bin/false")
    with Grader() as judge, pytest.raises(GradingError, match="did not start"):
        judge.grade("x+x", task("2x"))
    monkeypatch.setattr(comparer.sys, "executable", "/no/such/python")
    with Grader() as judge, pytest.raises(GradingError, match="cannot start"):
        judge.grade("x+x", task("2x"))


# -- phrases and options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("The Beatles", "beatles", True),
        ("  coahuila  mexico.", "Coahuila, Mexico", True),
        ("President Richard Nixon", "Richard Nixon", False),
        ("Stanley Hall", "G. Stanley Hall", True),  # by its alias
        ("yes", "Yes", True),
        ("True", "true", True),
        ("True", "yes", False),
        ("no", "yes", False),
        ("1000", "1,000", True),
        ("3.5", "35", False),
        ("-5", "5", False),
        ("", "the", False),
        ("the", "the", True),  # nothing is left of the gold: compared as it stands
        ("an", "the", False),
        ("None", "yes", False),
        (None, "none", False),
    ],
)
def test_phrases(judge: Grader, answer: str | None, gold: str, right: bool) -> None:
    verdict = judge.grade(answer, task(gold, TaskKind.QA, aliases=["Stanley Hall"] if "Hall" in gold else []))
    assert verdict[0] is right


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing_for_words(text: str) -> None:
    once = normalise(text)
    assert once == " ".join(once.split())
    assert "the" not in once.split()


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B)", "B"),
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("B) 12/25/1937", "B"),
        ("(B) 12/25/1937", "B"),
        ("B: foo", "B"),
        ("Option (B)", "B"),
        ("The answer is B.", "B"),
        ("the answer is: (b)", "B"),
        ("A dog", None),
        ("12/25/1937", None),
        ("(A) or (B)", None),
        ("Both", None),
        ("", None),
    ],
)
def test_letters(answer: str, letter: str | None) -> None:
    assert option(answer) == letter


def test_options_are_judged_by_their_letter(judge: Grader) -> None:
    assert judge.grade("B) 12/25/1937", task("(B)", TaskKind.CHOICE))[0]
    assert not judge.grade("A", task("(B)", TaskKind.CHOICE))[0]
    assert not judge.grade("12/25/1937", task("(B)", TaskKind.CHOICE))[0]
    assert not judge.grade(None, task("(B)", TaskKind.CHOICE))[0]


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("Richard Nixon", "President Richard Nixon", 0.8),
        ("the Beatles", "Beatles", 1.0),
        ("Rome", "Paris", 0.0),
        ("b b x", "b b c", 2 / 3),
        (None, "Paris", 0.0),
        ("", "the", 0.0),
        ("Stanley Hall", "G. Stanley", 1.0),  # by its alias
    ],
)
def test_f1_is_squads(answer: str | None, gold: str, score: float) -> None:
    assert f1(answer, gold, ["Stanley Hall"] if "Stanley" in gold else []) == pytest.approx(score)


# -- the Grader -----------------------------------------------------------------------------------


def test_a_grader_is_used_from_several_threads() -> None:
    answers = [("5", "5"), ("x+x", "2x"), (None, "1"), ("10", "11"), ("2x", "x+x")] * 4
    with Grader(seconds=20.0, workers=2) as judge, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda pair: judge.grade(pair[0], task(pair[1]))[0], answers))
    assert found == [True, True, False, False, True] * 4


def test_one_answer_can_be_graded_alone() -> None:
    assert grade_math("5", "5.0") == (True, "number", "")
    with pytest.raises(UsageError):
        Grader(seconds=0)
