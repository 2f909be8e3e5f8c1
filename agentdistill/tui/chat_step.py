"""What a turn looks like: its question, its steps as they grow, its answer.

Guaranteed: whatever a model, its code or a corpus wrote is made visible before it is drawn, and never read as
markup; long texts are folded, and only so much of them is drawn as a person would scroll through.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from textual.containers import Vertical
from textual.content import Content
from textual.highlight import highlight
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import Collapsible, Static

from agentdistill.stages.chat.events import EntriesRecalled, PassagesFound
from agentdistill.types import Candidate, Step, StopReason, Trajectory
from agentdistill.visible import visible, visible_line

FOLD_LINES, FOLD_CHARACTERS = 10, 1_200
"""An observation with more is folded."""
DRAWN = 20_000
"""Characters of one text that are drawn at most."""
LOGS, VALUE = "Execution logs:\n", "Last output from code snippet:\n"
"""CodeAgent's headings in an observation."""
CODE_MARK, CODE_END = "<code>", "</code>"
_ENDS = {
    StopReason.MAX_STEPS: "the step limit was reached",
    StopReason.CONTEXT: "the conversation does not fit into the model's context any more",
}


def plain(text: str, style: str = "") -> Content:
    """Text of others, safe to draw."""
    content = Content(visible(text, DRAWN))
    return content.stylize(style) if style else content


def code(text: str) -> Content:
    """Python with highlighting."""
    return highlight(visible(text, DRAWN).replace("\t", "    "), language="python")


def fold(title: str, *inside: Widget, classes: str = "card") -> Collapsible:
    """A card that is closed; `title` is drawn as it is."""
    return Collapsible(*inside, title=escape(visible_line(title, 200)), classes=classes)


def divided(text: str) -> tuple[str, str]:
    """Thought and code of a model's text, finished or not."""
    thought, _, rest = text.partition(CODE_MARK)
    return thought.strip().removeprefix("Thought:").strip(), rest.split(CODE_END, 1)[0].strip("\n")


class StepView(Vertical):
    """One step: live while it grows, then what became of it."""

    DEFAULT_CSS = """
    StepView { height: auto; margin: 0 0 1 0; }
    StepView .thought { color: $text-muted; }
    StepView .code { border-left: thick $primary-muted; padding: 0 0 0 1; }
    StepView .state { color: $text-muted; text-style: italic; }
    StepView .observation { padding: 0 0 0 2; color: $text-muted; }
    StepView .error { padding: 0 0 0 2; color: $text-error; }
    """

    def __init__(self, number: int) -> None:
        self._thought = Static(classes="thought")
        self._code = Static(classes="code")
        self._state = Static(classes="state")
        super().__init__(self._thought, self._code, self._state)
        self.number = number
        self._since: float | None = None
        self._began = time.monotonic()
        self._code.display = False

    @property
    def runs_code(self) -> bool:
        """Whether code runs."""
        return self._since is not None

    def grow(self, texts: Mapping[int, str], expected: int) -> None:
        """Live text, by candidate."""
        if expected == 1:
            thought, action = divided(texts.get(0, ""))
            self._thought.update(plain(thought))
            self._show_code(action)
            return
        rows = [f"{index + 1}  {visible_line(text[-300:])[-70:]}" for index, text in sorted(texts.items())]
        self._thought.update(Content("\n".join(rows)))

    def run(self, action: str) -> None:
        """Code starts to run; of several candidates the last that did is shown."""
        self._show_code(action)
        if self._since is None:
            self._since = time.monotonic()

    def tick(self) -> None:
        """Draw the clock."""
        if self._since is not None:
            self._say(f"running {time.monotonic() - self._since:.1f} s")
        else:
            self._say(f"thinking {time.monotonic() - self._began:.1f} s")

    def add_found(self, event: PassagesFound | EntriesRecalled) -> None:
        """A card for what a search or the knowledge base has given."""
        self.mount(found_card(event))

    def stopped(self) -> None:
        """The step did not end."""
        self._say("stopped")

    def finish(self, step: Step) -> None:
        """What became of it."""
        self._since = None
        self._thought.update(plain(step.thought))
        self._show_code(step.code or "")
        tokens = f"{step.tokens_in:,} + {step.tokens_out:,} tokens" if step.tokens_out else "tokens unknown"
        dropped = f", {len(step.dropped)} earlier observations left out" if step.dropped else ""
        self._say(f"step {self.number}: {step.seconds:.1f} s, {tokens}{dropped}")
        self.mount_all(outcome(step))

    def _show_code(self, text: str) -> None:
        self._code.display = bool(text.strip())
        if text.strip():
            self._code.update(code(text))

    def _say(self, text: str) -> None:
        self._state.update(Content(text))


def outcome(step: Step) -> Iterable[Widget]:
    """Votes, observation and error of a step."""
    if step.candidates:
        yield votes(step.candidates)
    seen = printed(step)
    if seen:
        yield observation(seen)
    if step.error:
        yield Static(plain(step.error.strip()), classes="error")


def printed(step: Step) -> str:
    """What the code has shown, without smolagents' headings; a final answer stands below the steps anyhow."""
    text = step.observation.removeprefix(LOGS)
    logs, _, value = text.rpartition(VALUE) if VALUE in text else (text, "", "")
    gives = value.strip() not in ("", "None") and "final_answer" not in (step.code or "")
    return "\n".join(filter(None, [logs.strip("\n"), f"→ {value.strip()}" if gives else ""]))


def observation(text: str) -> Widget:
    """What the code has shown, folded if it is long."""
    lines = text.count("\n") + 1
    shown = Static(plain(text), classes="observation")
    if lines <= FOLD_LINES and len(text) <= FOLD_CHARACTERS:
        return shown
    return fold(f"observation: {lines:,} lines, {len(text):,} characters", shown)


def votes(candidates: tuple[Candidate, ...]) -> Widget:
    """The candidates of a self-consistent step: votes, result, code."""
    most = max(candidate.votes for candidate in candidates)
    ended = sum(candidate.votes > 0 for candidate in candidates)
    parts: list[Widget] = []
    for number, candidate in enumerate(candidates, 1):
        mark = "●" if candidate.chosen else "○"
        title = f"{mark} candidate {number}: {_votes(candidate)}, {_result(candidate)}"
        parts.append(fold(title, Static(code(candidate.code or candidate.text), classes="code")))
    title = (
        f"vote: {most} of {len(candidates)} agree"
        if ended
        else f"vote: none of {len(candidates)} has a result"
    )
    card = fold(title, *parts)
    card.collapsed = False
    return card


def _votes(candidate: Candidate) -> str:
    return "1 vote" if candidate.votes == 1 else f"{candidate.votes} votes"


def _result(candidate: Candidate) -> str:
    found = candidate.execution
    if found is None:
        return "no code"
    if found.error is not None:
        lines = found.error.strip().splitlines()
        return visible_line(lines[-1] if lines else "an error", 60)
    said = str(found.value) if found.value is not None else found.logs.strip()
    return f"{'answers' if found.is_final else 'gives'} {visible_line(said, 50)}"


def found_card(event: PassagesFound | EntriesRecalled) -> Widget:
    """Passages, or what the knowledge base had to say."""
    if isinstance(event, EntriesRecalled):
        names = ", ".join(event.found.entries) or "nothing fits"
        return fold(f"knowledge base: {names}", Static(plain(event.found.text or "nothing")))
    cards = [
        fold(f"{number} {passage.title or passage.id} ({passage.score:.2f})", Static(plain(passage.text)))
        for number, passage in enumerate(event.passages, 1)
    ]
    count = f"{len(cards)} passages" if cards else "nothing found"
    return fold(f"search: {count} for {event.query}", *cards)


class TurnView(Vertical):
    """A question, its steps, its answer."""

    DEFAULT_CSS = """
    TurnView { height: auto; margin: 0 0 1 0; }
    TurnView > .question { color: $text-primary; text-style: bold; margin: 0 0 1 0; }
    TurnView > .answer { color: $text-success; text-style: bold; }
    TurnView > .failed { color: $text-error; }
    """

    def __init__(self, question: str, expected: int = 1) -> None:
        super().__init__(Static(Content("› ") + plain(question), classes="question"))
        self.question = question
        self._expected = expected
        self._step: StepView | None = None
        self._steps = 0

    @property
    def step(self) -> StepView:
        """The step that goes on."""
        if self._step is None:
            self._steps += 1
            self._step = StepView(self._steps)
            self.mount(self._step)
        return self._step

    def grow(self, texts: Mapping[int, str]) -> None:
        self.step.grow(texts, self._expected)

    def take(self, step: Step) -> None:
        """A step has ended."""
        self.step.finish(step)
        self._step = None

    def end(self, trajectory: Trajectory) -> None:
        """The turn has ended."""
        why = _ENDS.get(trajectory.stop_reason, "")
        if self._step is not None:
            self._step.display = False  # the call for the forced answer, which is no step
            self._step = None
        if trajectory.answer is None:
            self.mount(Static(Content(f"no answer: {why or 'none was given'}"), classes="failed"))
            return
        answer = Content("= ") + plain(trajectory.answer)
        self.mount(Static(answer + Content(f"  ({why})") if why else answer, classes="answer"))

    def fail(self, message: str) -> None:
        """The turn was stopped, or something broke."""
        if self._step is not None:
            self._step.stopped()
            self._step = None
        self.mount(Static(plain(message), classes="failed"))


def recorded(trajectory: Trajectory) -> TurnView:
    """A turn as it was stored: to be mounted, then `replay`ed."""
    return TurnView(trajectory.task.question)


def replay(view: TurnView, trajectory: Trajectory) -> None:
    """Show the steps and the answer of a stored turn."""
    for step in trajectory.steps:
        view.take(step)
    view.end(trajectory)
