"""How the turns before reach the prompt: as text in front of the question, in its user turn.

Each turn of a conversation is an attempt of its own, with the shape of any other: system, one user turn,
steps. So its row trains what this turn has done and nothing of those before (user turns are masked), and
`curate` need not know of conversations. The text has each earlier question, the code that ran without an
error, and the answer, because variables live on and the model must know their names. It grows at its end, so
that an engine finds the beginning of its prompt in its cache.

Of long texts the beginning is kept. What does not fit into CHARACTERS is left out, oldest turns first.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentdistill.types import Trajectory

CHARACTERS = 4_000
"""About 1,000 tokens: a quarter of the default context."""
QUESTION, CODE, ANSWER = 600, 1_200, 400
"""Characters of each part of a turn, at most."""
ALIVE = "Earlier in this conversation. What the code has defined is still there."
GONE = "Earlier in this conversation. What this code has defined is not there any more."
LEFT_OUT = "(the turns before are left out)"


def earlier(turns: Sequence[tuple[Trajectory, bool]]) -> str:
    """Text for the turns before, each with whether its variables are still there; "" if there are none."""
    texts: list[tuple[str, bool]] = []
    room = CHARACTERS
    for trajectory, alive in reversed(turns):
        text = _turn(trajectory)
        if texts and len(text) > room:
            break
        room -= len(text)
        texts.append((text, alive))
    texts.reverse()
    parts = [LEFT_OUT] if len(texts) < len(turns) else []
    for heading, wanted in ((GONE, False), (ALIVE, True)):
        chosen = [text for text, alive in texts if alive is wanted]
        parts += [heading, *chosen] if chosen else []
    return "\n\n".join(parts)


def _turn(trajectory: Trajectory) -> str:
    codes = [step.code.strip() for step in trajectory.steps if step.code and step.error is None]
    lines = [f"Question: {_cut(trajectory.task.question, QUESTION)}"]
    if codes:
        lines.append(f"<code>\n{_cut(chr(10).join(codes), CODE)}\n</code>")
    lines.append(f"Answer: {_cut(trajectory.answer or 'none was given', ANSWER)}")
    return "\n".join(lines)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} [...]"
