"""The slash commands of chat: their names, their arguments, what they say of themselves."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from agentdistill.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """`argument` is as it stands in the help: "" for none, in brackets if it may be left out. `during_turn`:
    whether it may be given while a turn goes on."""

    name: str
    argument: str
    help: str
    during_turn: bool = False


COMMANDS = (
    Command("help", "", "this list", True),
    Command("model", "[SPEC]", "go on with another model (as --model)"),
    Command("candidates", "N", "sample N actions a step, take the majority's"),
    Command("kb", "[DIR|off]", "notes from a knowledge base"),
    Command("retriever", "[INDEX|URL|off]", "give the agent search(query)"),
    Command("tools", "", "what the code may call", True),
    Command("vars", "", "what is defined in the sandbox"),
    Command("undo", "", "take the last turn back, the sandbox too"),
    Command("retry", "", "the last turn once more, as another sample"),
    Command("right", "[ANSWER]", "the last answer is right, or this one is"),
    Command("save", "DIR", "write the conversation as a RUN"),
    Command("load", "RUN", "go on with a stored conversation"),
    Command("export", "FORMAT FILE", "messages, sharegpt, atif or hf"),
    Command("approve", "on|off", "ask before code runs", True),
    Command("theme", "[NAME]", "light, dark, or a theme of Textual", True),
    Command("quit", "", "leave", True),
)
KEYS = (
    ("Enter", "send"),
    ("Ctrl-J", "new line (also Shift-Enter, Alt-Enter)"),
    ("Up, Down", "what was typed before"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-C", "stop the turn; else copy what is selected"),
    ("Tab, Enter", "go to a card, open it; Escape comes back"),
    ("PageUp, PageDown", "scroll"),
    ("Ctrl-T", "light or dark"),
    ("Ctrl-Q", "leave"),
)


def read(line: str) -> tuple[Command, str]:
    """The command of a line that begins with a slash, and its argument. UsageError."""
    name, _, argument = line.strip().removeprefix("/").partition(" ")
    argument = argument.strip()
    found = next((command for command in COMMANDS if command.name == name.strip().lower()), None)
    if found is None:
        near = difflib.get_close_matches(name, [command.name for command in COMMANDS], 1)
        raise UsageError(f"there is no command /{name}", f"/{near[0]}?" if near else "/help lists them")
    if found.argument and not found.argument.startswith("[") and not argument:
        raise UsageError(f"/{found.name} {found.argument}: {found.help}")
    if not found.argument and argument:
        raise UsageError(f"/{found.name} takes nothing after it")
    return found, argument


def help_text() -> str:
    """All commands and keys, for 80 columns."""
    commands = [(f"/{command.name} {command.argument}".strip(), command.help) for command in COMMANDS]
    rows = [f"  {name:<28}{text}" for name, text in commands]
    keys = [f"  {name:<28}{text}" for name, text in KEYS]
    return "\n".join(
        [*rows, "", *keys, "", "  @FILE in a question puts a copy of that file into the sandbox."]
    )
