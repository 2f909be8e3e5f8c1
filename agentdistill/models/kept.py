"""What the transformers engine keeps of earlier draws, so that the next step of a conversation is cheap.

Two things, found again by the text and the tokens of the next prompt; there are no sessions to open or close:
the token ids of what was sampled, which go into the next prompt as they are, and keys and values. Guaranteed:
the ids of a prompt spell exactly its text; what the model sampled comes back as the ids it sampled, not as
another spelling of the same text; keys and values stay within `limit` bytes. Not guaranteed: that anything is
still kept. A prompt nothing is kept of is tokenised whole and forward-passed whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentdistill.models.decode import KeysValues

DRAWS = 64  # draws whose token ids are kept; a few kilobytes each


@dataclass(frozen=True)
class Sampled:
    """One finished sample: its ids and their text, of which the first `given` characters were given back.

    `lengths` has the length of the text after each id: None inside a character of several tokens, and from a
    control token on, which the text leaves out. `keys_values` are those of `ids` but the last, which was
    never forward-passed.
    """

    ids: tuple[int, ...]
    text: str
    given: int
    lengths: tuple[int | None, ...]
    keys_values: KeysValues | None


@dataclass(eq=False)
class Draw:
    """One prompt and its finished samples."""

    prompt: str
    ids: tuple[int, ...]
    keys_values: KeysValues | None
    samples: list[Sampled] = field(default_factory=list)

    def size(self) -> int:
        """Bytes of keys and values."""
        held = [self.keys_values, *(sample.keys_values for sample in self.samples)]
        return sum(x.nbytes for layers in held if layers for pair in layers for x in pair)

    def forget_keys_values(self) -> None:
        self.keys_values = None
        self.samples = [replace(s, keys_values=None) for s in self.samples]


class KeptDraws:
    """The last draws, the most useful last. Not safe to use from several threads at once."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.limit = limit
        self._tokenizer = tokenizer
        self._draws: list[Draw] = []

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt, sampled turns as they were sampled."""
        spelled: tuple[int, ...] = ()
        length = 0
        for draw in self._draws:
            if not prompt.startswith(draw.prompt):
                continue
            for sample in draw.samples:
                count, end = _shared(sample, prompt[len(draw.prompt) :])
                if count and len(draw.prompt) + end > length:
                    spelled, length = draw.ids + sample.ids[:count], len(draw.prompt) + end
        ids = spelled + self._tokens(prompt[length:])
        # Some tokenizers put a space before whatever they are given: they can only be given the whole text.
        if spelled and self._text(ids) != prompt:
            return self._tokens(prompt)
        return ids

    def longest(self, ids: Sequence[int]) -> KeysValues | None:
        """Kept keys and values of the most first tokens of a prompt, never of all."""
        best, best_draw, best_sample = 0, None, None
        for draw in self._draws:
            if draw.keys_values is None:
                continue
            count = _common(draw.ids, ids[:-1])
            if count > best:
                best, best_draw, best_sample = count, draw, None
            if count == len(draw.ids):
                for sample in draw.samples:
                    more = count + _common(sample.ids[:-1], ids[count:-1])
                    if sample.keys_values and more > best:
                        best, best_draw, best_sample = more, draw, sample
        if best_draw is None:
            return None
        self._draws.remove(best_draw)
        self._draws.append(best_draw)
        held = [best_draw.keys_values or [], (best_sample.keys_values if best_sample else None) or []]
        return _first(held, best)

    def add(self, draw: Draw) -> None:
        """Keep a draw. The one it goes on from gives up its keys and values: the new ones hold them."""
        for other in self._draws:
            if len(draw.ids) > len(other.ids) and draw.ids[: len(other.ids)] == other.ids:
                rest = draw.prompt[len(other.prompt) :]
                if any(_shared(sample, rest)[0] for sample in other.samples):
                    other.forget_keys_values()
        self._draws = [*self._draws, draw][-DRAWS:]
        self._bound()

    def add_sample(self, draw: Draw, sample: Sampled) -> None:
        """Keep one more sample of a draw."""
        draw.samples.append(replace(sample, keys_values=sample.keys_values if draw.keys_values else None))
        self._bound()

    def _bound(self) -> None:
        room = self.limit
        for draw in reversed(self._draws):
            size = draw.size()
            if size > room:
                draw.forget_keys_values()
            else:
                room -= size

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _shared(sample: Sampled, rest: str) -> tuple[int, int]:
    """How many of a sample's ids, and of their characters, `rest` begins with; none if it is another turn."""
    if not rest.startswith(sample.text[: sample.given]):
        return 0, 0
    for index in range(len(sample.lengths) - 1, -1, -1):
        length = sample.lengths[index]
        if length and rest.startswith(sample.text[:length]):
            return index + 1, length
    return 0, 0


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _first(held: Sequence[KeysValues], count: int) -> KeysValues:
    """The first `count` tokens of keys and values that follow one another."""
    import torch

    return [
        (
            torch.cat([keys for keys, _ in layer], dim=-2)[:, :, :count],
            torch.cat([values for _, values in layer], dim=-2)[:, :, :count],
        )
        for layer in zip(*(part for part in held if part), strict=True)
    ]
