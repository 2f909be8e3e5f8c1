"""RUNs to look at, for the tests of `inspect`: made through the same writer as any RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentdistill.runs import RunWriter, write_scores
from agentdistill.types import (
    Candidate,
    ErrorKind,
    Execution,
    FirstThought,
    KnowledgeUse,
    Score,
    Step,
    StopReason,
    Task,
    ThoughtStatus,
    ToolCall,
    Trajectory,
    Usage,
)

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e[red]markup[/red]</pre><script>x</script>\x9b31m\r"


def attempt(number: int, *, sample: int = 0, **fields: Any) -> Trajectory:
    """Attempt at task `t{number}`, right if its answer is the number."""
    question = fields.pop("question", f"What is {number}?")
    return Trajectory(
        id=f"t{number}#{sample}@x",
        task=Task(f"t{number}", question, str(number), source="sums"),
        messages=fields.pop(
            "messages",
            (
                {"role": "system", "content": "Solve it."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"Thought: easy\n<code>\nfinal_answer({number})\n</code>"},
            ),
        ),
        steps=fields.pop("steps", (Step("easy", f"final_answer({number})", str(number), tokens_out=7),)),
        answer=fields.pop("answer", str(number)),
        stop_reason=fields.pop("stop_reason", StopReason.FINAL_ANSWER),
        model="fake",
        sample=sample,
        usage=Usage(100 * number, 10 * number, float(number)),
        **fields,
    )


def run_of(folder: Path, *attempts: Trajectory, graded: bool = True) -> Path:
    with RunWriter(folder, stage="eval", shape={"model": "fake"}, asked={}) as run:
        run.append(*attempts)
    if graded:
        grade_run(folder, *attempts)
    return folder


def grade_run(folder: Path, *attempts: Trajectory) -> None:
    """Verdicts by the text: what grading proper would say of these tasks."""
    write_scores(folder, [Score(a.id, a.answer == a.task.answer, "text", "") for a in attempts])


def full() -> Trajectory:
    """An attempt with all there is: tool calls, votes, an error, a first thought, knowledge, a long text."""
    long = "\n".join(f"line {i} of what was seen" for i in range(200))
    candidates = tuple(
        Candidate(f"Thought: so\n<code>\n{code}", code, execution, votes, chosen)
        for code, execution, votes, chosen in (
            ("final_answer(6 * 7)", Execution(value=42, is_final=True), 2, True),
            ("final_answer(42)", Execution(value=42, is_final=True), 2, False),
            ("1 / 0", Execution(error="ZeroDivisionError", error_kind=ErrorKind.EXCEPTION), 1, False),
            (None, None, 1, False),
        )
    )
    call = ToolCall("search", {"query": "answer"}, {"passages": ["p1", "p2"]}, seconds=0.5)
    return attempt(
        42,
        steps=(
            Step("look first", "print(search('answer'))", long, tool_calls=(call,), tokens_in=50),
            Step("oops", "1 / 0", "", error="ZeroDivisionError: no", error_kind=ErrorKind.EXCEPTION),
            Step("now vote", "final_answer(6 * 7)", "42", candidates=candidates, dropped=(0,)),
        ),
        first_thought=FirstThought(
            ThoughtStatus.USED, "look first", "content", "look first, then", True, "tokens"
        ),
        knowledge=KnowledgeUse("inject", "hybrid", ("entry-one",), True),
    )
