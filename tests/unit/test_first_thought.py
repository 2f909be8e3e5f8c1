"""First thoughts: what is cut, what is skipped, what leaks, and that only the first step is prefilled."""

import pytest

from agentdistill.agent.first_thought import (
    MAX_WORDS,
    FirstThoughtModel,
    cut,
)
from agentdistill.grading.extract import final_answer
from agentdistill.models.scripted import ScriptedModel
from agentdistill.types import Task, TaskKind, ThoughtStatus

TASK = Task("t", "How many bottles are in 17 crates of 36?", "612")


@pytest.mark.parametrize(
    ("cot", "answer"),
    [
        ("We add.\nThe answer is 612.", "612"),
        ("So \\(\\boxed{612}\\).", "612"),
        ("#### 612", "612"),
        ("**The answer is: 612 bottles.**", "612 bottles"),
        ("So it is \\boxed{\\frac{1}{2}}, not \\boxed{1", "\\frac{1}{2}"),
        ("The answer is (0, 5].", "(0, 5]"),
        ("The answer is (B).", "(B)"),
        ("Answer: $x^2 (y)$.", "x^2 (y)"),
        ("No end in sight", ""),
    ],
)
def test_final_answer(cot: str, answer: str) -> None:
    assert final_answer(cot) == answer


def test_content_skips_openers_and_keeps_the_plan() -> None:
    cot = (
        "To find the number of bottles, we need to follow these steps:\n\n"
        "1. **Multiply** the 17 crates by the 36 bottles in each crate.\n"
        "2. 17 × 36 = 612\n\nThe answer is 612."
    )
    assert cut(cot, TASK, "content") == (
        ThoughtStatus.USED,
        "Multiply the 17 crates by the 36 bottles in each crate.",
    )


def test_paragraph_is_the_papers_rule() -> None:
    cot = "To find the number of bottles, we need to follow these steps:\n\n1. Multiply."
    status, text = cut(cot, TASK, "paragraph")
    assert (status, text) == (ThoughtStatus.USED, cot.split("\n")[0])


@pytest.mark.parametrize("rule", ["paragraph", "content"])
def test_nothing_is_left_of_a_cot_that_states_the_answer_at_once(rule: str) -> None:
    assert cut("Seventeen crates of 36 hold 612 bottles. Multiply them to see it.", TASK, rule) == (
        ThoughtStatus.LEAKED,
        "",
    )


def test_the_chains_own_wrong_answer_is_a_leak_too() -> None:
    cot = "We multiply the crates by the bottles in each. This gives 600 bottles.\nThe answer is 600."
    assert cut(cot, TASK, "content")[1] == "We multiply the crates by the bottles in each."


def test_only_openers_is_empty() -> None:
    assert cut("Let's solve this step by step:", TASK, "content") == (ThoughtStatus.EMPTY, "")


def test_no_sentence_is_edited_and_the_cap_holds() -> None:
    sentence = "Multiply the crates by the bottles in each crate first."
    status, text = cut(" ".join([sentence] * 40), TASK, "content")
    assert status is ThoughtStatus.USED
    assert len(text.split()) <= MAX_WORDS["content"]
    assert text.replace(sentence, "").strip() == ""


def test_a_sentence_over_the_cap_is_left_out_whole() -> None:
    assert cut("Multiply " + "them again and " * 40 + "stop.", TASK, "content") == (ThoughtStatus.EMPTY, "")


def test_a_formula_that_is_skipped_leaks_all_the_same() -> None:
    cot = "We multiply the crates by the bottles.\n17 * 36 = 612\nNow we are done with the bottles.\n#### 612"
    assert cut(cot, TASK, "content") == (ThoughtStatus.USED, "We multiply the crates by the bottles.")


def test_an_option_leaks_by_letter_and_by_text() -> None:
    question = "Which is the oldest penguin?\nOptions:\n(A) Louis\n(B) Bernard"
    task = Task("t", question, "(B)", kind=TaskKind.CHOICE)
    for sentence in ("So it is B.", "It must be (B) then.", "The oldest of them is Bernard."):
        cot = f"A look at the ages of all the penguins helps. {sentence}"
        assert cut(cot, task, "content")[1] == "A look at the ages of all the penguins helps."


def test_only_the_first_step_call_is_prefilled() -> None:
    model = ScriptedModel(["a", "b", "c"])
    thought = FirstThoughtModel(model, "Multiply them.")
    messages = [{"role": "user", "content": "q"}]
    planning = thought.sample(messages, stop=["<end_plan>"])[0]  # type: ignore[list-item]
    first = thought.sample(messages, stop=["Observation:"])[0]  # type: ignore[list-item]
    second = thought.sample(messages, stop=["Observation:"])[0]  # type: ignore[list-item]
    assert [c.text for c in (planning, first, second)] == ["a", "Thought: Multiply them.\nb", "c"]
    assert thought.prefill == "tokens"
