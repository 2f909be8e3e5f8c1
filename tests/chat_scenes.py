"""A chat on a screen without a terminal: parts with a scripted model, and the scenes of the pictures.

python tests/chat_scenes.py FOLDER      writes the pictures of docs/pictures anew
"""

from __future__ import annotations

import asyncio
import html
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from agentdistill.models.base import BaseModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.chat.conversation import Conversation
from agentdistill.stages.chat.events import Listener
from agentdistill.tui.chat import ChatApp
from agentdistill.tui.chat_history import History
from agentdistill.tui.chat_parts import Parts
from agentdistill.types import Limits, Sampling

SIZE = (80, 24)
CELL = 12.2
"""Width of a letter in rich's pictures."""
SETTINGS = AttemptSettings(
    prompts=load_prompts("student"),
    sampling=Sampling(temperature=0.4, max_tokens=100),
    max_steps=3,
    sandbox="bubblewrap",
    limits=Limits(seconds=20),
)


def action(code: str, thought: str = "Compute it.") -> str:
    return f"Thought: {thought}\n<code>\n{code}\n</code>"


def make_app(
    model: BaseModel | Sequence[str | Exception],
    settings: AttemptSettings = SETTINGS,
    *,
    out: Path | None = None,
    history: History | None = None,
    approve: bool = False,
    **openers: Any,
) -> ChatApp:
    given = model if isinstance(model, BaseModel) else ScriptedModel(model)

    def conversation(listener: Listener, out: Path | None) -> Conversation:
        return Conversation(given, settings, listener, out=out)

    def none(spec: str) -> Any:
        raise AssertionError(f"{spec} was not to be opened")

    parts = Parts(
        conversation=openers.get("conversation", conversation),
        model=openers.get("open_model", none),
        retriever=openers.get("retriever", none),
        knowledge=openers.get("knowledge", none),
        model_name=given.model_id,
    )
    return ChatApp(parts, out, approve=approve, history=history)


async def until(pilot: Pilot[Any], done: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until that is so on the screen."""
    for _ in range(int(seconds / 0.05)):
        if done():
            await pilot.pause()
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"it never came to that; on the screen:\n{screen(pilot.app)}")


def screen(app: Any) -> str:
    """What stands on the screen, as lines of text."""
    return texts(app.export_screenshot())


def texts(svg: str) -> str:
    """The lines of a picture, without the frame around it."""
    rows: dict[int, str] = {}
    for style, text in re.findall(r"<text ([^>]*clip-path[^>]*)>(.*?)</text>", svg, re.DOTALL):
        row, x = re.search(r"line-(\d+)", style), re.search(r'x="([\d.]+)"', style)
        if row and x and text.strip("\n"):
            line = rows.get(int(row[1]), "")
            rows[int(row[1])] = line.ljust(round(float(x[1]) / CELL)) + html.unescape(text)
    lines = [rows.get(row, "").replace("\xa0", " ").rstrip() for row in range(max(rows, default=0) + 1)]
    return "\n".join(lines)


async def ask(pilot: Pilot[Any], text: str) -> None:
    """Type a line and send it."""
    pilot.app.prompt.put(text)  # type: ignore[attr-defined]
    await pilot.press("enter")


# The scenes

PRIMES = (
    "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))\n\n"
    "count = sum(is_prime(n) for n in range(1000))\nprint(count)"
)


def idle() -> ChatApp:
    return make_app(ScriptedModel([""], model_id="qwen2.5-coder-1.5b"), out=None)


def streaming() -> ChatApp:
    script = [
        action(PRIMES, "Test every number below 1000 for divisors up to its square root, and count."),
        action(
            "import time\ntime.sleep(15)\nfinal_answer(count)",
            "The count is printed above. Wait a little, then give it as the answer.",
        ),
    ]
    return make_app(ScriptedModel(script, model_id="qwen2.5-coder-1.5b", pause=0.02))


def votes() -> ChatApp:
    replies = [
        action("final_answer(23 * 17 - 40)", "Multiply, then take 40 away."),
        action("total = 23 * 17\nfinal_answer(total - 40)", "First the total, then what is left."),
        action("final_answer(23 * (17 - 40))", "Take 40 away, then multiply."),
        action("boxes, each = 23, 17\nfinal_answer(boxes * each - 40)", "Name the numbers first."),
        action("final_answer(23 * 17 - 40 / 0)", "Divide."),
    ]
    model = ScriptedModel(replies, model_id="qwen2.5-coder-1.5b", pause=0.02)
    one_by_one = Limits(seconds=20, cores=1)  # so that the same ones are cancelled each time
    return make_app(model, replace(SETTINGS, candidates=5, limits=one_by_one))


async def show_idle(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: "sandbox ready" in screen(pilot.app))


async def show_streaming(pilot: Pilot[Any]) -> None:
    await show_idle(pilot)
    await ask(pilot, "How many primes are below 1000?")
    await until(pilot, lambda: "running 1." in screen(pilot.app))


async def show_votes(pilot: Pilot[Any]) -> None:
    await show_idle(pilot)
    await ask(pilot, "23 boxes hold 17 pens each. 40 pens are sold. How many are left?")
    await until(pilot, lambda: "= 351" in screen(pilot.app))


SCENES: dict[str, tuple[Callable[[], ChatApp], Callable[[Pilot[Any]], Awaitable[None]]]] = {
    "chat-idle": (idle, show_idle),
    "chat-streaming": (streaming, show_streaming),
    "chat-votes": (votes, show_votes),
}


async def picture(name: str, size: tuple[int, int] = SIZE) -> str:
    """One scene as SVG."""
    make, show = SCENES[name]
    app = make()
    try:
        async with app.run_test(size=size) as pilot:
            await show(pilot)
            taken = app.export_screenshot(title="agentdistill chat")
            app.action_stop()
            return taken
    finally:
        app.end()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for scene in SCENES:
        # Without the web fonts that Textual names: a page of the docs asks nobody for anything.
        drawn = re.sub(r"\s*@font-face \{[^}]*\}", "", asyncio.run(picture(scene)))
        (folder / f"{scene}.svg").write_text(drawn + "\n")
