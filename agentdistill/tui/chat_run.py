"""What the slash commands do: each gives its work to the conversation's thread, and draws what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentdistill.errors import UsageError
from agentdistill.tui.chat_commands import help_text, read
from agentdistill.visible import visible_line

if TYPE_CHECKING:
    from agentdistill.stages.chat.conversation import Conversation
    from agentdistill.stages.chat.record import Turn
    from agentdistill.stages.chat.sandbox import Variable
    from agentdistill.tui.chat import ChatApp

OFF = "off"
THEMES = {"light": "textual-light", "dark": "textual-dark"}


class Commands:
    """The commands of one app."""

    def __init__(self, app: ChatApp) -> None:
        self.app = app

    def run(self, line: str) -> None:
        """Do what a line that begins with a slash says. UsageError if that cannot be done now."""
        command, argument = read(line)
        if self.app.in_turn and not command.during_turn:
            raise UsageError(f"/{command.name} waits for the turn to end", "Ctrl-C stops it")
        getattr(self, f"_{command.name}")(argument)

    def _help(self, argument: str) -> None:
        self.app.show(help_text())

    def _quit(self, argument: str) -> None:
        self.app.action_leave()

    def _theme(self, argument: str) -> None:
        name = THEMES.get(argument, argument)
        if not argument:
            self.app.action_theme()
        elif name in self.app.available_themes:
            self.app.theme = name
        else:
            raise UsageError(f"there is no theme {argument}", ", ".join(sorted(self.app.available_themes)))

    def _tools(self, argument: str) -> None:
        def listed(conversation: Conversation) -> str:
            tools = [(name, visible_line(text, 100)) for name, text in conversation.tools()]
            tools.append(("final_answer", "ends the turn with its argument"))
            return "\n".join(f"  {name:<16}{text}" for name, text in tools)

        self.app.ask_now(listed, self.app.show)

    def _approve(self, argument: str) -> None:
        if argument not in ("on", OFF):
            raise UsageError(f"/approve takes on or off, not {argument}")

        def switch(conversation: Conversation) -> str:
            conversation.approve = argument == "on"
            return "code waits for your yes" if argument == "on" else "code runs without asking"

        self.app.ask_now(switch, self.app.notice)

    def _vars(self, argument: str) -> None:
        def show(found: list[Variable]) -> None:
            rows = [f"  {v.name:<16} {v.type:<12} {visible_line(v.text, 100)}" for v in found]
            self.app.show("\n".join(rows) or "  nothing is defined")

        self.app.job(lambda conversation: conversation.variables(), show)

    def _undo(self, argument: str) -> None:
        def done(turn: Turn) -> None:
            self.app.drop_last_turn()
            self.app.notice(f"undone: {visible_line(turn.trajectory.task.question, 60)}")

        self.app.job(lambda conversation: conversation.undo(), done)

    def _retry(self, argument: str) -> None:
        self.app.begin_retry()

    def _right(self, argument: str) -> None:
        self.app.job(
            lambda conversation: conversation.right(argument or None),
            lambda turn: self.app.notice(f"noted as right: {visible_line(turn.right or '', 60)}"),
        )

    def _candidates(self, argument: str) -> None:
        if not argument.isdecimal() or not 1 <= int(argument) <= 64:
            raise UsageError(f"/candidates takes a number from 1 to 64, not {argument}")

        def done(_: None) -> None:
            self.app.figures.candidates = int(argument)
            self.app.notice(f"{argument} candidates a step from now on")

        self.app.job(lambda conversation: conversation.use(candidates=int(argument)), done)

    def _model(self, argument: str) -> None:
        if not argument:
            self.app.notice(f"the model is {self.app.model_name}")
            return
        self.app.notice(f"opening {argument}; one that is not here yet is fetched first")

        def open_it(conversation: Conversation) -> None:
            before = conversation.model
            model, price = self.app.parts.model(argument)
            conversation.use(model=model, price=price)
            before.close()

        def done(_: None) -> None:
            self.app.set_model_name(argument)
            self.app.notice(f"the model is {argument} from now on")

        self.app.job(open_it, done)

    def _retriever(self, argument: str) -> None:
        if not argument:
            self.app.notice(f"search is {self.app.figures.retriever}")
            return

        def open_it(conversation: Conversation) -> None:
            before = conversation.settings.retriever
            conversation.use_retriever(None if argument == OFF else self.app.parts.retriever(argument))
            close = getattr(before, "close", None)
            if close is not None:
                close()

        def done(_: None) -> None:
            self.app.figures.retriever = short(argument)
            self.app.notice("no search any more" if argument == OFF else f"search looks in {argument}")

        self.app.job(open_it, done)

    def _kb(self, argument: str) -> None:
        if not argument:
            self.app.notice(f"the knowledge base is {self.app.figures.kb}")
            return

        def open_it(conversation: Conversation) -> None:
            conversation.use_knowledge(None if argument == OFF else self.app.parts.knowledge(argument))

        def done(_: None) -> None:
            self.app.figures.kb = short(argument)
            self.app.notice(
                "no knowledge base any more" if argument == OFF else f"notes come from {argument}"
            )

        self.app.job(open_it, done)

    def _save(self, argument: str) -> None:
        self.app.job(
            lambda conversation: conversation.save(Path(argument).expanduser()),
            lambda folders: self.app.notice(
                f"saved to {', '.join(map(str, folders))}. Next: agentdistill grade {folders[0]}"
            ),
        )

    def _load(self, argument: str) -> None:
        self.app.job(
            lambda conversation: conversation.load(Path(argument).expanduser()),
            lambda turns: self.app.show_loaded(turns, argument),
        )

    def _export(self, argument: str) -> None:
        format, _, file = argument.partition(" ")
        if not file.strip():
            raise UsageError("/export FORMAT FILE: messages, sharegpt, atif or hf, and a file")
        self.app.job(
            lambda conversation: conversation.export(format, Path(file.strip()).expanduser()),
            lambda done: self.app.notice(f"{done.rows} turns written to {done.out} as {done.format}"),
        )


def short(name: str | None) -> str:
    """A path or address for the status line."""
    if not name or name == OFF:
        return OFF
    return visible_line(name.rstrip("/").rsplit("/", 1)[-1], 20)
