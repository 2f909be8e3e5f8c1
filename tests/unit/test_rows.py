"""Which tokens are trained: exactly the assistant turns, whatever the template, or an error."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentdistill.errors import TrainingError
from agentdistill.training.preview import preview, row_statistics
from agentdistill.training.rows import (
    IGNORED,
    Row,
    encode_row,
    encode_rows,
    end_of_turn,
    student_chat_template,
)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THREE_STEPS = [
    {"role": "system", "content": "Answer with code."},
    {"role": "user", "content": "New task:\nWhat is 2 + 3, doubled?"},
    {"role": "assistant", "content": "Thought: add.\n<code>\nx = 2 + 3\nprint(x)\n</code>"},
    {"role": "user", "content": "Observation:\nExecution logs:\n5\n"},
    {"role": "assistant", "content": "Thought: naïve, double it 🙂.\n<code>\nprint(x * 2)\n</code>"},
    {"role": "user", "content": "Observation:\nExecution logs:\n10\n"},
    {"role": "assistant", "content": "Thought: done.\n<code>\nfinal_answer(10)\n</code>"},
]
TURNS = [message["content"] for message in THREE_STEPS if message["role"] == "assistant"]


def make_tokenizer(template=CHATML):
    """Byte-level BPE over a small vocabulary: any text has tokens, some of several bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([message["content"] for message in THREE_STEPS] * 3 + ["\n\n"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def student():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = student_chat_template(tokenizer)
    return tokenizer


def folded(messages):
    """The history as stock smolagents sends it: the call echoed, content in parts."""
    echo = "\nCalling tools:\n[{'id': 'call_1', 'type': 'function', 'function': {'arguments': 'x = 2'}}]"
    return [
        {
            "role": message["role"],
            "content": [
                {
                    "type": "text",
                    "text": message["content"] + (echo if message["role"] == "assistant" else ""),
                }
            ],
        }
        for message in messages
    ]


def test_trains_exactly_the_assistant_turns(tokenizer):
    row = encode_row("r", THREE_STEPS, tokenizer)
    trained = tokenizer.decode([label for label in row.labels if label != IGNORED])
    assert trained == "".join(turn + "<|im_end|>" for turn in TURNS)
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))


def test_ids_are_those_of_the_whole_rendering(tokenizer):
    row = encode_row("r", THREE_STEPS, tokenizer)
    text = tokenizer.apply_chat_template(THREE_STEPS, tokenize=False)
    assert list(row.input_ids) == tokenizer.encode(text, add_special_tokens=False)


def test_newline_after_the_end_of_turn_is_not_trained(tokenizer):
    row = encode_row("r", THREE_STEPS, tokenizer)
    assert row.labels[-1] == IGNORED
    assert row.labels[-2] == tokenizer.eos_token_id


def test_a_prompt_without_system_turn_keeps_the_injected_one_untrained(tokenizer):
    row = encode_row("r", THREE_STEPS[1:3], tokenizer)
    assert tokenizer.decode(row.input_ids).startswith("<|im_start|>system\nYou are a helpful assistant")
    assert tokenizer.decode([label for label in row.labels if label != IGNORED]) == TURNS[0] + "<|im_end|>"


def test_student_template_gives_training_ids_for_a_stock_history(tokenizer, student):
    plain = tokenizer.apply_chat_template(THREE_STEPS, tokenize=False)
    assert student.apply_chat_template(THREE_STEPS, tokenize=False) == plain
    assert student.apply_chat_template(folded(THREE_STEPS), tokenize=False) == plain
    prompt = student.apply_chat_template(folded(THREE_STEPS[:-1]), tokenize=False, add_generation_prompt=True)
    assert plain.startswith(prompt)
    row = encode_row("r", THREE_STEPS, student)
    assert list(row.input_ids) == student.encode(plain, add_special_tokens=False)


def test_student_template_cuts_only_assistant_turns(student):
    messages = [{"role": "user", "content": "a\nCalling tools:\nb"}]
    assert "a\nCalling tools:\nb" in student.apply_chat_template(messages, tokenize=False)


def test_student_template_is_added_once(student):
    assert student_chat_template(student) == student.chat_template


def test_echoed_calls_are_not_trained(student):
    turn = {"role": "assistant", "content": TURNS[2] + "\nCalling tools:\n[{'id': 1}]"}
    row = encode_row("r", [THREE_STEPS[1], turn], student)
    assert row == encode_row("r", [THREE_STEPS[1], THREE_STEPS[-1]], student)


def test_too_long_rows_are_left_out_whole_and_named(tokenizer):
    short = THREE_STEPS[:3]
    length = len(encode_row("a", short, tokenizer).input_ids)
    encoded = encode_rows([("a", short), ("b", THREE_STEPS), ("c", short)], tokenizer, length)
    assert [row.id for row in encoded.rows] == ["a", "c"]
    assert encoded.too_long == ("b",)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "does not end with an assistant turn"),
        (THREE_STEPS[:4], "does not end with an assistant turn"),
        ([THREE_STEPS[1], {"role": "assistant", "content": " \n"}], "turn 1 is an empty assistant turn"),
        (
            [{"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant\nb"}, THREE_STEPS[2]],
            "turn 0 holds the special token",
        ),
        (
            [THREE_STEPS[1], {"role": "assistant", "content": "x<|im_end|>y"}],
            "turn 1 holds the special token",
        ),
        ([{"role": "user", "content": None}, THREE_STEPS[2]], "content of turn 0 is not text"),
    ],
)
def test_a_row_that_cannot_be_trained_is_named(tokenizer, messages, reason):
    with pytest.raises(TrainingError, match=reason) as caught:
        encode_row("row-7", messages, tokenizer)
    assert "row-7" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("message['content'] + '<|im_end|>'", "message['content']"), "no end-of-turn token"),
        (CHATML.replace("message['content'] +", "message['content'] | upper +"), "rewrites turn"),
        (CHATML + "{{ messages | length }}", "renders differently"),
        (CHATML.replace("{% for", "{{ raise_exception('only tools') }}{% for"), "only tools"),
        (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant'"), "rewrites turn"),
    ],
)
def test_a_template_that_hides_the_spans_is_an_error(template, reason):
    with pytest.raises(TrainingError, match=reason):
        encode_row("r", THREE_STEPS, make_tokenizer(template))


def test_a_token_over_the_edge_of_a_turn_is_an_error():
    # Without a newline of its own before the turn, "t" and "Thought" may share a token.
    template = CHATML.replace("message['role'] + '\n'", "message['role']").replace(
        "assistant\n'", "assistant'"
    )
    tokenizer = make_tokenizer(template)
    backend = Tokenizer(
        models.WordLevel({"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}, "<|endoftext|>")
    )
    tokenizer.backend_tokenizer.model = backend.model
    with pytest.raises(TrainingError, match=r"decoded back|edge of an assistant turn"):
        encode_row("r", THREE_STEPS[:3], tokenizer)


def test_no_chat_template_is_an_error(tokenizer):
    with pytest.raises(TrainingError, match="no chat template"):
        encode_row("r", THREE_STEPS, make_tokenizer(None))


def test_end_of_turn(tokenizer):
    assert end_of_turn(tokenizer) == "<|im_end|>"


def test_preview_colours_what_is_trained(tokenizer):
    row = encode_row("r", THREE_STEPS, tokenizer)
    shown = preview(row, tokenizer)
    assert shown.plain == tokenizer.apply_chat_template(THREE_STEPS, tokenize=False)
    coloured = "".join(
        shown.plain[span.start : span.end] for span in shown.spans if "green" in str(span.style)
    )
    assert coloured == "".join(turn + "<|im_end|>" for turn in TURNS)


def test_preview_disarms_escape_sequences(tokenizer):
    messages = [THREE_STEPS[1], {"role": "assistant", "content": "a\x1b[2Jb"}]
    assert "\x1b" not in preview(encode_row("r", messages, tokenizer), tokenizer).plain


def test_statistics():
    rows = [Row(str(n), tuple(range(n)), (IGNORED,) * (n - 1) + (n,)) for n in range(1, 11)]
    statistics = row_statistics(rows)
    assert (statistics.rows, statistics.tokens, statistics.trained) == (10, 55, 10)
    assert (statistics.p50, statistics.p90, statistics.longest) == (5, 9, 10)
    assert (statistics.labels_p50, statistics.labels_p90) == (1, 1)
    assert row_statistics([]).longest == 0


def test_a_cut_off_final_answer_is_an_error(tokenizer):
    cut = {"role": "assistant", "content": "Thought: done.\n<code>\nfinal_answer(1"}
    with pytest.raises(TrainingError, match="row-7: its last turn is cut off"):
        encode_row("row-7", [*THREE_STEPS[:6], cut], tokenizer)


def test_a_long_row_is_split_at_a_step_on_request(tokenizer):
    whole = encode_row("a", THREE_STEPS, tokenizer)
    length = len(encode_row("a", THREE_STEPS[:5], tokenizer).input_ids)
    assert length < len(whole.input_ids)
    encoded = encode_rows([("a", THREE_STEPS)], tokenizer, length, split_long=True)
    assert (encoded.split, encoded.too_long) == (("a",), ())
    assert [row.id for row in encoded.rows] == ["a#1", "a#2"]
    assert max(len(row.input_ids) for row in encoded.rows) <= length
    trained = [tokenizer.decode([x for x in row.labels if x != IGNORED]) for row in encoded.rows]
    assert trained == ["".join(turn + "<|im_end|>" for turn in TURNS[:2]), TURNS[2] + "<|im_end|>"]
    second = tokenizer.decode(encoded.rows[1].input_ids)
    assert THREE_STEPS[1]["content"] + "\n\n" + THREE_STEPS[5]["content"] in second
    assert TURNS[1] not in second


def test_a_row_with_one_step_too_long_is_left_out_even_when_split(tokenizer):
    length = len(encode_row("a", THREE_STEPS[:3], tokenizer).input_ids) - 1
    encoded = encode_rows([("a", THREE_STEPS)], tokenizer, length, split_long=True)
    assert encoded == encode_rows([("a", THREE_STEPS)], tokenizer, length)
    assert encoded.too_long == ("a",)
