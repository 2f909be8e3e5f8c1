"""One entry of a knowledge base, and its file.

An entry is a YAML file that a person can read, edit and merge. Every scalar is read as text and then checked
against its field, so `- 1984` and `title: No` mean what they look like. Guaranteed: what is wrong with a file
is told with its line, all of it at once; `write_entry(read_entry(text))` is canonical: fields in one order,
one bullet a line, the same text for the same entry, read alike by every YAML reader. Not guaranteed:
comments, which canonical writing drops; and that an entry is right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from agentdistill.errors import EntryFileError
from agentdistill.types import TaskKind

MAX_FILE = 64 * 1024
"""Bytes of an entry's file. Ours: the longest entry that the fields below allow is shorter."""
MAX_BULLETS = 16
MAX_BULLET = 400
"""Characters of a bullet. Ours: about 100 tokens; four such fill the budget of a prompt."""

_CONFLICT = re.compile(r"(<{7}|>{7})( |$)|={7}$|\|{7}( |$)")
_ID = r"[a-z0-9]+(-[a-z0-9]+)*"
# libyaml's reader, ten times faster than the one in Python where PyYAML was built with it.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Status(StrEnum):
    """Only `active` entries are given to a model."""

    DRAFT = "draft"
    ACTIVE = "active"
    RETIRED = "retired"


class Kind(StrEnum):
    """What an entry is about."""

    PROCEDURE = "procedure"
    FACT = "fact"
    PITFALL = "pitfall"
    TOOL_USAGE = "tool_usage"


def _one_line(text: str) -> str:
    """White space made single blanks, so that a text is one line of its file."""
    text = " ".join(text.split())
    if not all(letter.isprintable() for letter in text):
        raise ValueError("holds control characters")
    return text


Line = Annotated[str, AfterValidator(_one_line), StringConstraints(min_length=1, max_length=200)]
Bullet = Annotated[str, AfterValidator(_one_line), StringConstraints(min_length=1, max_length=MAX_BULLET)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.+-]{0,63}$")]
QuestionHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FromTrajectory(_Strict):
    """The failed attempt an entry was made from. `steps` are the first and the last one shown, from 0."""

    trajectory: Line
    steps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    question: QuestionHash
    student: Line
    teacher: Line
    prompt: Line


class FromPerson(_Strict):
    """Somebody has written it; `question` is the hash of the question they had before them, if any."""

    author: Line
    note: Line | None = None
    question: QuestionHash | None = None


def _source(value: Any) -> str:
    by_person = "author" in value if isinstance(value, dict) else isinstance(value, FromPerson)
    return _PERSON if by_person else _TRAJECTORY


_PERSON, _TRAJECTORY = "<person>", "<trajectory>"  # no field can have such a name


Provenance = Annotated[
    Annotated[FromTrajectory, Tag(_TRAJECTORY)] | Annotated[FromPerson, Tag(_PERSON)],
    Discriminator(_source),
]


class Use(_Strict):
    """Counts of the last `kb stats --write`: tasks it was given for, and verdicts that changed with it."""

    retrieved: int = Field(default=0, ge=0)
    wrong_to_right: int = Field(default=0, ge=0)
    right_to_wrong: int = Field(default=0, ge=0)


class Entry(_Strict):
    """A piece of specialised knowledge. `task_kinds`, `families` and `tools` say what it is for: empty is
    anything, `tools` are all needed."""

    id: Annotated[str, StringConstraints(pattern=f"^{_ID}$", max_length=80)]
    status: Status = Status.DRAFT
    locked: bool = False
    kind: Kind
    title: Line
    trigger: Line
    learning_summary: tuple[Bullet, ...] = Field(default=(), max_length=MAX_BULLETS)
    supplementary_knowledge: tuple[Bullet, ...] = Field(default=(), max_length=MAX_BULLETS)
    task_kinds: tuple[TaskKind, ...] = Field(default=(), max_length=8)
    families: tuple[Word, ...] = Field(default=(), max_length=32)
    tools: tuple[Word, ...] = Field(default=(), max_length=32)
    tags: tuple[Word, ...] = Field(default=(), max_length=32)
    provenance: tuple[Provenance, ...] = Field(min_length=1, max_length=1000)
    use: Use = Use()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.bullets:
            raise ValueError("no bullet in learning_summary or supplementary_knowledge")
        return self

    @property
    def bullets(self) -> tuple[str, ...]:
        return self.learning_summary + self.supplementary_knowledge

    @property
    def text(self) -> str:
        """Everything in it that a model may read."""
        return "\n".join((self.title, self.trigger, *self.bullets))

    @property
    def content_hash(self) -> str:
        """SHA-256 of what it says and what it is for, whatever its id, status, provenance and use."""
        said = [self.kind.value, self.text.casefold(), *(" ".join(sorted(words)) for words in self.labels)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    @property
    def labels(self) -> tuple[frozenset[str], ...]:
        """Its tags of every kind: near duplicates are only merged where these are equal."""
        return tuple(frozenset(map(str, words)) for words in self._labels)

    @property
    def _labels(self) -> tuple[Sequence[str], ...]:
        return self.task_kinds, self.families, self.tools, self.tags

    @property
    def questions(self) -> frozenset[str]:
        """Hashes of the questions it was made from."""
        return frozenset(source.question for source in self.provenance if source.question is not None)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a file; `line` counts from 1."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file} line {self.line}: {self.what}"


def question_hash(question: str) -> str:
    """A question's identity for leave-one-out: 16 hex digits, whatever its case and white space."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode("utf-8", "replace")).hexdigest()[:16]


def new_id(title: str, salt: str) -> str:
    """An id that says what an entry is about and that two people do not give twice."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    return "-".join([*words[:8], hashlib.sha256(salt.encode("utf-8", "replace")).hexdigest()[:6]])[
        -80:
    ].strip("-")


# ---------------------------------------------------------------------- reading


def read_entry(raw: bytes, file: str) -> tuple[Entry | None, list[Problem]]:
    """The entry of a file, or None and all that is wrong with it."""
    node, problems = _composed(raw, file)
    if node is None or problems:
        return None, problems
    lines: dict[tuple[Any, ...], int] = {}
    found = _plain(node, (), lines)
    try:
        return Entry.model_validate(found), []
    except ValidationError as error:
        # A list whose items are wrong counts as empty for pydantic: not worth a line of its own.
        told = [one for one in error.errors() if one["type"] != "too_short" or not one["input"]]
        return None, [Problem(file, *_told(one, lines)) for one in told]


def validated(found: Any, file: str, line: int) -> Entry:
    """An entry of plain JSON, as of line `line` of a file. Raises EntryFileError."""
    try:
        return Entry.model_validate(found)
    except ValidationError as error:
        _, what = _told(error.errors()[0], {})
        raise EntryFileError(str(Problem(file, line, what))) from error


def _composed(raw: bytes, file: str) -> tuple[yaml.Node | None, list[Problem]]:
    if len(raw) > MAX_FILE:
        return None, [Problem(file, 1, f"is larger than {MAX_FILE // 1024} kB")]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [Problem(file, raw[: error.start].count(b"\n") + 1, "is not UTF-8")]
    marks = [n for n, line in enumerate(text.split("\n"), 1) if _CONFLICT.match(line.rstrip("\r"))]
    if marks:
        what = "a merge conflict is left in the file: keep one side and remove its marks"
        return None, [Problem(file, marks[0], what)]
    try:
        # An alias can stand for a text that grows a thousandfold; an entry needs none.
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                return None, [Problem(file, line, "anchors and aliases are not read")]
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        return None, [Problem(file, mark.line + 1 if mark else 1, f"is no YAML: {what}")]
    if not isinstance(node, yaml.MappingNode):
        return None, [Problem(file, 1, "holds no fields")]
    return node, list(_twice(node, file))


def _twice(node: yaml.Node, file: str) -> Iterator[Problem]:
    """Keys that stand in one mapping twice, of which YAML readers would take the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield Problem(file, key.start_mark.line + 1, f"{name} is there twice")
            seen.add(name)
            yield from _twice(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item, file)


def _plain(node: yaml.Node, path: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> Any:
    """The node as dict, list and text; `lines` gets the line of every path in it."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found = {}
        for key, value in node.value:
            name = str(key.value)
            found[name] = _plain(value, (*path, name), lines)
            lines[*path, name] = key.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines) for index, item in enumerate(node.value)]
    return str(node.value)


def _told(error: Any, lines: dict[tuple[Any, ...], int]) -> tuple[int, str]:
    """The line and the words for one error of pydantic."""
    # The kind of a provenance stands in pydantic's path, not in the file.
    path = tuple(part for part in error["loc"] if part not in (_PERSON, _TRAJECTORY))
    name = ".".join(str(part) for part in path) or "the entry"
    known = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in lines), ())
    match error["type"]:
        case "missing" if path[-1:] == ("provenance",):
            what = "provenance is missing: say where it comes from, at least `- author: NAME`"
        case "missing":
            what = f"{name} is missing"
        case "extra_forbidden":
            what = f"there is no field {name}"
        case "tuple_type":
            what = f"{name} must be a list"
        case "too_short" if path == ("provenance",):
            what = "provenance is empty: say where it comes from, at least `- author: NAME`"
        case "model_type" | "model_attributes_type" | "dict_type":
            what = f"{name} must have fields, each on a line of its own (name: value)"
        case "string_type":
            what = f"{name} must be one text: put it in quotes if it holds a colon"
        case "value_error" if not path:
            what = error["msg"].removeprefix("Value error, ")
        case _:
            shown = repr(error["input"])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            what = f"{name} = {shown}: {error['msg'].removeprefix('Value error, ').lower()}"
    return lines.get(known, 1), what


# ---------------------------------------------------------------------- writing


def as_json(entry: Entry) -> dict[str, Any]:
    """The entry as plain JSON, its fields in their order, empty ones left out."""
    found = entry.model_dump(mode="json", exclude_none=True)
    if entry.use == Use():
        found.pop("use")
    return {name: value for name, value in found.items() if value not in ([], False)}


def write_entry(entry: Entry) -> str:
    """The canonical text of an entry's file."""
    return str(
        yaml.dump(
            as_json(entry),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            width=1 << 20,  # a bullet stays on its line: a changed word is one changed line in a diff
        )
    )
