"""One prompt file for each BBH subset: the teacher's own, with examples of that subset's form.

    python experiments/bbh_prompts.py OUT

Writes OUT/SUBSET.yaml. The shipped prompt's examples are taken out and one or two put in that show a program
for such a question (as PAL does, arXiv 2211.10435) and, for `chain_of_thought`, the same question answered in
words. They are made up: none is a task of BBH. Only the teacher sees them; a student never does.

A small model that is not shown a program works BBH out in its head and has the code say the result: with the
shipped prompt and three other examples 11 of 32 attempts at these questions were right, nearly all so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from bbh_halves import FORM

from agentdistill.prompts import load_prompts

HINT = "Solve it as in the example."
"""Instead of the shipped hints: those speak of the final answer, and the model gives just that, no code."""


SHIPPED_THOUGHT = "what is known, what is asked, and how to get from one to the other, in a few sentences."
THOUGHT = "how the program gets the answer, in one or two sentences. No results here."


class Example(NamedTuple):
    question: str
    thought: str
    code: str
    chain: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "boolean_expressions": (
        Example(
            "not ( False or True ) and not False is",
            "Python can evaluate this expression as it stands.",
            "result = not ( False or True ) and not False\nfinal_answer(result)",
            "Work out the brackets first, then not, then and. False or True is True, and not True is "
            "False. not False is True. False and True is False. The answer is False.",
        ),
    ),
    "date_understanding": (
        Example(
            "Sam was to arrive on 3/27/1999, but came three days late. What was the date one week "
            "before Sam came in MM/DD/YYYY?\n"
            "Options:\n"
            "(A) 03/30/1999\n"
            "(B) 03/23/1999\n"
            "(C) 04/06/1999\n"
            "(D) 03/24/1999",
            "Write the known date with datetime, add and subtract days to get the asked one, and "
            "look up its letter.",
            "from datetime import date, timedelta\n"
            "came = date(1999, 3, 27) + timedelta(days=3)\n"
            "asked = came - timedelta(days=7)\n"
            'options = {"03/30/1999": "(A)", "03/23/1999": "(B)", "04/06/1999": "(C)", "03/24/1999": '
            '"(D)"}\n'
            'final_answer(options[asked.strftime("%m/%d/%Y")])',
            "Find the known date, then count the days to the asked one. Three days after 03/27/1999 "
            "is 03/30/1999. One week before that is 03/23/1999. That is option (B). The answer is "
            "(B).",
        ),
    ),
    "multistep_arithmetic_two": (
        Example(
            "((4 - -3 * 2 + 8) * (5 + 1 - 9 * 2)) =",
            "Python can compute this expression as it stands.",
            "result = ((4 - -3 * 2 + 8) * (5 + 1 - 9 * 2))\nfinal_answer(result)",
            "Work out each bracket, products before sums, then put them together. 4 - -3 * 2 + 8 is "
            "4 + 6 + 8 = 18. 5 + 1 - 9 * 2 is 6 - 18 = -12. 18 * -12 = -216. The answer is -216.",
        ),
    ),
    "navigate": (
        Example(
            "If you follow these instructions, do you return to the starting point? Always face "
            "forward. Take 4 steps left. Take 3 steps forward. Take 1 step right. Take 3 steps "
            "backward.\n"
            "Options:\n"
            "- Yes\n"
            "- No",
            "Always facing forward, keep x for left and right and y for forward and backward, and "
            "see whether both end at 0.",
            'x, y = 0, 0\nx -= 4\ny += 3\nx += 1\ny -= 3\nfinal_answer("Yes" if (x, y) == (0, 0) else "No")',
            "Keep track of left and right, and of forward and backward. Left 4 and right 1 leaves 3 "
            "to the left. Forward 3 and backward 3 leaves 0. The end is not the start. The answer is "
            "No.",
        ),
        Example(
            "If you follow these instructions, do you return to the starting point? Take 2 steps. "
            "Turn right. Take 5 steps. Turn around. Take 5 steps.\n"
            "Options:\n"
            "- Yes\n"
            "- No",
            "The direction turns, so keep the position x, y and the direction dx, dy, and see "
            "whether the position ends at 0, 0.",
            "x, y, dx, dy = 0, 0, 0, 1\n"
            "x, y = x + 2 * dx, y + 2 * dy\n"
            "dx, dy = dy, -dx  # right\n"
            "x, y = x + 5 * dx, y + 5 * dy\n"
            "dx, dy = -dx, -dy  # around\n"
            "x, y = x + 5 * dx, y + 5 * dy\n"
            'final_answer("Yes" if (x, y) == (0, 0) else "No")',
            "Keep track of the position and of the direction. 2 steps forward. Then 5 steps to the "
            "right. Around and 5 steps back to the left. That leaves 2 forward, so the end is not "
            "the start. The answer is No.",
        ),
    ),
    "object_counting": (
        Example(
            "I have two apples, a plum, three chairs, an orange, and a lamp. How many fruits do I have?",
            "Write down how many there are of each fruit, leave out what is none, and add them up.",
            'fruits = {"apples": 2, "plum": 1, "orange": 1}\nfinal_answer(sum(fruits.values()))',
            "Pick out the fruits and count them. 2 apples, 1 plum and 1 orange. 2 + 1 + 1 = 4. The "
            "answer is 4.",
        ),
    ),
    "penguins_in_a_table": (
        Example(
            "Here is a table where the first line is a header and each subsequent line is a bird:  "
            "name, age, height (cm), weight (kg) Ada, 4, 30, 2 Bo, 9, 25, 3 Cy, 6, 40, 1  For "
            "example: the age of Bo is 9, the weight of Cy is 1 kg.  We now add a bird to the table:\n"
            "Dot, 5, 33, 4\n"
            "How many birds are more than 4 years old and weigh less than 4 kg?\n"
            "Options:\n"
            "(A) 1\n"
            "(B) 2\n"
            "(C) 3\n"
            "(D) 4",
            "Write the rows of the table as a list, take those that fit, count them, and look up the "
            "letter of that number.",
            'birds = [("Ada", 4, 30, 2), ("Bo", 9, 25, 3), ("Cy", 6, 40, 1), ("Dot", 5, 33, 4)]\n'
            "count = len([bird for bird in birds if bird[1] > 4 and bird[3] < 4])\n"
            'options = {1: "(A)", 2: "(B)", 3: "(C)", 4: "(D)"}\n'
            "final_answer(options[count])",
            "Go through the rows of the table and keep those that fit. Ada is 4, not more. Bo is 9 "
            "and weighs 3. Cy is 6 and weighs 1. Dot weighs 4, not less. Bo and Cy fit, so there are "
            "2, option (B). The answer is (B).",
        ),
    ),
    "reasoning_about_colored_objects": (
        Example(
            "On the table, there is one red pen, two blue cups, three red cups, and one red key. If "
            "I remove all the cups from the table, how many red items remain on it?\n"
            "Options:\n"
            "(A) zero\n"
            "(B) one\n"
            "(C) two\n"
            "(D) three\n"
            "(E) four\n"
            "(F) five",
            "Write the items as a list of color, thing and number, take those that remain and have "
            "the color, add up their numbers, and look up the letter.",
            'items = [("red", "pen", 1), ("blue", "cup", 2), ("red", "cup", 3), ("red", "key", 1)]\n'
            'count = sum(n for color, thing, n in items if thing != "cup" and color == "red")\n'
            'options = ["(A)", "(B)", "(C)", "(D)", "(E)", "(F)"]  # zero, one, two, ...\n'
            "final_answer(options[count])",
            "Leave out what is removed, then count the color. Without cups there are one red pen and "
            "one red key. That is 2 red items, option (C). The answer is (C).",
        ),
        Example(
            "On the desk, there is a bunch of things arranged in a row: a green mug, a gold book, "
            "and a pink dog leash. What is the color of the thing directly to the left of the dog "
            "leash?\n"
            "Options:\n"
            "(A) pink\n"
            "(B) gold\n"
            "(C) green\n"
            "(D) red",
            "Write the row as a list of color and thing, find the position of the dog leash, take "
            "the color beside it, and look up its letter.",
            'row = [("green", "mug"), ("gold", "book"), ("pink", "dog leash")]\n'
            'place = [thing for color, thing in row].index("dog leash")\n'
            'options = {"pink": "(A)", "gold": "(B)", "green": "(C)", "red": "(D)"}\n'
            "final_answer(options[row[place - 1][0]])",
            "Go through the row from left to right and find the thing. The order is green mug, gold "
            "book, pink dog leash. To the left of the dog leash is the gold book. Gold is option "
            "(B). The answer is (B).",
        ),
    ),
    "tracking_shuffled_objects_three_objects": (
        Example(
            "Ann, Ben, and Cat play a game. At the start, they each hold one ball: Ann has a red "
            "ball, Ben has a white ball, and Cat has a black ball.\n"
            "As the game goes on, pairs of players swap balls. First, Cat and Ann swap balls. Then, "
            "Ann and Ben swap balls. Finally, Ben and Cat swap balls. At the end of the game, Ann "
            "has the\n"
            "Options:\n"
            "(A) red ball\n"
            "(B) white ball\n"
            "(C) black ball",
            "Keep in a dict who has what, do the swaps in their order, and look up the letter of "
            "what is asked.",
            'has = {"Ann": "red ball", "Ben": "white ball", "Cat": "black ball"}\n'
            'has["Cat"], has["Ann"] = has["Ann"], has["Cat"]\n'
            'has["Ann"], has["Ben"] = has["Ben"], has["Ann"]\n'
            'has["Ben"], has["Cat"] = has["Cat"], has["Ben"]\n'
            'options = {"red ball": "(A)", "white ball": "(B)", "black ball": "(C)"}\n'
            'final_answer(options[has["Ann"]])',
            "Follow who has which one through the swaps. After the first Cat has red and Ann has "
            "black. After the second Ann has white and Ben has black. After the third Ben has red "
            "and Cat has black. Ann has white, option (B). The answer is (B).",
        ),
    ),
    "web_of_lies": (
        Example(
            "Question: Ida lies. Joe says Ida tells the truth. Kay says Joe lies. Leo says Kay lies. "
            "Mia says Leo tells the truth. Does Mia tell the truth?",
            "Keep in a dict who tells the truth. Who says that another tells the truth is as true as "
            "that one; who says that another lies is the opposite.",
            'truth = {"Ida": False}\n'
            'truth["Joe"] = truth["Ida"]\n'
            'truth["Kay"] = not truth["Joe"]\n'
            'truth["Leo"] = not truth["Kay"]\n'
            'truth["Mia"] = truth["Leo"]\n'
            'final_answer("Yes" if truth["Mia"] else "No")',
            "Go from one speaker to the next. Ida lies. Joe says she tells the truth, so Joe lies. "
            "Kay says Joe lies, so Kay tells the truth. Leo says Kay lies, so Leo lies. Mia says Leo "
            "tells the truth, so Mia lies. The answer is No.",
        ),
    ),
    "word_sorting": (
        Example(
            "Sort the following words alphabetically: List: stone lamp river cloud",
            "Split the text into words, sort them, and join them with spaces.",
            'words = "stone lamp river cloud".split()\nfinal_answer(" ".join(sorted(words)))',
            "Compare the first letters, then the next ones. c comes first: cloud. Then l: lamp. Then "
            "r: river. Then s: stone. The answer is cloud lamp river stone.",
        ),
    ),
}


def prompt_file(subset: str, examples: Sequence[Example]) -> str:
    """ValueError if the shipped prompt no longer has the places that are replaced here."""
    shipped = load_prompts("teacher").content
    asked = [f"\n\nExample:\n{example.question}\n{FORM[subset]}\n{HINT}\n" for example in examples]
    text = shipped["system_prompt"]
    before, after = text[: text.index("\n\nExample:\nA crate")].split(SHIPPED_THOUGHT)
    system = before + THOUGHT + after
    for question, example in zip(asked, examples, strict=True):
        system += f"{question}Thought: {example.thought}\n<code>\n{example.code}\n</code>"
    chain = shipped["chain_of_thought"].split("{%- else -%}")[1].split("{%- endif %}")[0].strip()
    chain += "".join(f"{question}{example.chain}" for question, example in zip(asked, examples, strict=True))
    content = {
        **shipped,
        "system_prompt": system,
        "answer_hints": {**shipped["answer_hints"], **dict.fromkeys(("math", "qa", "choice"), HINT)},
        "chain_of_thought": chain,
    }
    head = f"# Made by experiments/bbh_prompts.py: the teacher's prompt for BBH {subset}.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for subset, examples in EXAMPLES.items():
        (out / f"{subset}.yaml").write_text(prompt_file(subset, examples), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
