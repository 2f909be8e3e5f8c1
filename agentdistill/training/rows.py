"""Conversations to token ids and labels: which tokens of a trajectory a student is trained on.

Guaranteed for every `Row`: `input_ids` are the ids of the whole conversation under the tokenizer's
chat template; `labels` repeat them on the assistant turns (their text and the token that ends the
turn) and are -100 everywhere else; decoding the trained tokens gives back exactly those texts. A
conversation for which that cannot be had raises TrainingError naming the row. No mark in the template
is needed: a turn's span is the difference of two rendered prefixes.

Not guaranteed: that a row is good data. Filtering is `curate`'s work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.errors import TrainingError
from agentdistill.types import Message

IGNORED = -100
"""The label that torch's and TRL's losses leave out."""

TOOL_ECHO = "\nCalling tools:\n"
"""smolagents adds this and the code once more to the assistant turns of its history."""

CODE_BEGIN, CODE_END = "<code>", "</code>"
"""smolagents' tags around the code of a step."""

_STUDENT_PROLOGUE = """\
{%- set student = namespace(turns=[], text='') -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set student.text = message['content'] -%}
{%- else -%}
{%- set student.text = '' -%}
{%- for part in message['content'] or [] -%}
{%- set student.text = student.text + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{%- set student.text = student.text.split('\\nCalling tools:\\n')[0].strip() -%}
{%- endif -%}
{%- set student.turns = student.turns + [{'role': message['role'], 'content': student.text}] -%}
{%- endfor -%}
{%- set messages = student.turns -%}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation, tokenised. `labels[i]` is `input_ids[i]` where token i is trained, else -100."""

    id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows that fit, the ids of those left out for their length, and of those split at a step instead."""

    rows: tuple[Row, ...]
    too_long: tuple[str, ...] = ()
    split: tuple[str, ...] = ()


def assistant_text(content: str) -> str:
    """An assistant turn as it is trained: without smolagents' echo of the tool call and outer blanks."""
    return content.split(TOOL_ECHO)[0].strip()


def student_chat_template(tokenizer: Any) -> str:
    """The base template, made to see the same text whatever client sends the history.

    Stock smolagents clients send content as a list of parts and fold "Calling tools: [...]" into the
    assistant turns. The exported template undoes both before the base template runs, so that the ids
    are those of training.
    """
    base = _template(tokenizer)
    return base if base.startswith(_STUDENT_PROLOGUE) else _STUDENT_PROLOGUE + base


def encode_rows(
    conversations: Iterable[tuple[str, Sequence[Message]]],
    tokenizer: Any,
    max_length: int,
    *,
    split_long: bool = False,
) -> Encoded:
    """Encode (id, messages) pairs.

    Rows of more than `max_length` tokens are left out whole, and named: a cut row would teach the student to
    stop short of its final answer. With `split_long` they become several rows (`split_row`) where they can.
    """
    rows, too_long, split = [], [], []
    for row_id, messages in conversations:
        row = encode_row(row_id, messages, tokenizer)
        if len(row.input_ids) <= max_length:
            rows.append(row)
        elif split_long and (pieces := split_row(row_id, messages, tokenizer, max_length)):
            rows += pieces
            split.append(row_id)
        else:
            too_long.append(row_id)
    return Encoded(tuple(rows), tuple(too_long), tuple(split))


def split_row(row_id: str, messages: Sequence[Message], tokenizer: Any, max_length: int) -> list[Row]:
    """A conversation as rows `id#1`, `id#2`, ... of at most `max_length` tokens, cut between two steps.

    Each row opens with the task; the second and later go on from the observation before their first step,
    which stands in the turn of the task, so that user and assistant alternate. Every assistant turn is
    trained in exactly one row. What is lost: a later row does not see the steps before its own. Empty if some
    step does not fit even by itself.
    """
    first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    opening, steps = list(messages[:first]), list(messages[first:])
    ends = [index + 1 for index, message in enumerate(steps) if message["role"] == "assistant"]
    rows: list[Row] = []
    start = 0
    while start < len(steps):
        fitting = None
        for end in (end for end in ends if end > start):
            piece = _piece(opening, steps[start:end])
            row = encode_row(f"{row_id}#{len(rows) + 1}", piece, tokenizer)
            if len(row.input_ids) > max_length:
                break
            fitting = row, end
        if fitting is None:
            return []
        rows.append(fitting[0])
        start = fitting[1]
    return rows


def _piece(opening: list[Message], steps: list[Message]) -> list[Message]:
    seen = list(opening)
    while steps and steps[0]["role"] != "assistant":
        observation, steps = steps[0], steps[1:]
        if seen and seen[-1]["role"] == observation["role"]:
            text = f"{seen[-1]['content']}\n\n{observation['content']}"
            seen[-1] = {"role": observation["role"], "content": text}
        else:
            seen.append(observation)
    return seen + steps


def encode_row(row_id: str, messages: Sequence[Message], tokenizer: Any) -> Row:
    """One conversation (ending with an assistant turn) to ids and labels; raises TrainingError."""
    messages = _checked(row_id, messages, tokenizer)
    full = _render(tokenizer, messages)
    input_ids: list[int] = []
    labels: list[int] = []
    position = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:index], add_generation_prompt=True)
        after = _render(tokenizer, messages[: index + 1])
        if not (full.startswith(after) and after.startswith(before) and len(before) >= position):
            raise _error(row_id, f"turn {index} renders differently inside the whole conversation")
        end = len(before) + _trained_length(row_id, index, after[len(before) :], message, tokenizer)
        context = _ids(tokenizer, full[position : len(before)])
        trained = _ids(tokenizer, full[len(before) : end])
        if tokenizer.decode(trained, **_VERBATIM) != full[len(before) : end]:
            raise _error(row_id, f"turn {index} cannot be decoded back from its tokens")
        input_ids += context + trained
        labels += [IGNORED] * len(context) + trained
        position = end
    rest = _ids(tokenizer, full[position:])
    input_ids += rest
    labels += [IGNORED] * len(rest)
    if input_ids != _ids(tokenizer, full):
        # Otherwise the student would read other tokens in its history than it was trained to write.
        raise _error(row_id, "a token reaches over the edge of an assistant turn")
    return Row(row_id, tuple(input_ids), tuple(labels))


_VERBATIM = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}


def _checked(row_id: str, messages: Sequence[Message], tokenizer: Any) -> list[Message]:
    """The conversation with its assistant turns as they are trained, or the error it deserves."""
    if not messages or messages[-1]["role"] != "assistant":
        raise _error(row_id, "it does not end with an assistant turn, so its end would not be trained")
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    checked: list[Message] = []
    for index, message in enumerate(messages):
        content = message["content"]
        if not isinstance(content, str):
            raise _error(row_id, f"the content of turn {index} is not text")
        for token in special:
            if token in content:
                # It would be read as the real thing: a forged turn, or an end in the middle.
                raise _error(row_id, f"turn {index} holds the special token {token}")
        if message["role"] == "assistant":
            content = assistant_text(content)
            if not content:
                raise _error(row_id, f"turn {index} is an empty assistant turn")
        checked.append({"role": message["role"], "content": content})
    last = checked[-1]["content"]
    if last.rfind(CODE_BEGIN) > last.rfind(CODE_END):
        raise _error(row_id, "its last turn is cut off: the code block has no end")
    return checked


def _trained_length(row_id: str, index: int, span: str, message: Message, tokenizer: Any) -> int:
    """How many characters of a rendered assistant turn are trained: its text and its end-of-turn token."""
    if not span.startswith(message["content"]):
        raise _error(row_id, f"the chat template rewrites turn {index}")
    tail = span[len(message["content"]) :]
    for token in {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}:
        if tail.startswith(token):
            return len(message["content"]) + len(token)
    raise _error(row_id, f"turn {index} has no end-of-turn token after its text")


def end_of_turn(tokenizer: Any) -> str:
    """The token that ends an assistant turn under this tokenizer's template; raises TrainingError."""
    probe: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    span = _render(tokenizer, probe)[len(_render(tokenizer, probe[:1], add_generation_prompt=True)) :]
    return span[1 : _trained_length("probe", 1, span, probe[1], tokenizer)]


def _render(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                chat_template=_template(tokenizer),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except TemplateError as error:
        raise TrainingError(f"the student's chat template fails: {error}") from error


def _template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template:
        raise TrainingError(
            "the student's tokenizer has no chat template", "take an instruct model, or give it one"
        )
    return template


def _ids(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)] if text else []


def _error(row_id: str, what: str) -> TrainingError:
    return TrainingError(f"training row {row_id}: {what}")
