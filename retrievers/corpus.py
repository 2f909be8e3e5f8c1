"""Reads a corpus: a JSONL file, a folder of text, Markdown or HTML files, or a data set of the hub.

Guaranteed: passages come as a stream, in the same order every time; every one has a non-empty id and text
within the limits below, valid as UTF-8 and without null bytes. What is wrong with a row is one line that
names its place; it ends the reading, or is handed to `skipped` if that was given. Not guaranteed: that ids
are unique (the writer of an index sees to that).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

MAX_TEXT = 50_000
"""Characters of a passage. A sentence encoder reads the first thousand or so; an agent, hardly more."""
MAX_ID = 512
MAX_TITLE = 1_000
MAX_LINE = 16 << 20
MAX_FILE = 64 << 20
CHUNK_WORDS, OVERLAP_WORDS = 120, 30
"""Of the passages that a file is cut into; 120 English words are well within what all-MiniLM-L6-v2 reads."""

SUFFIXES = {".txt", ".md", ".markdown", ".html", ".htm"}
HUB = "hf:"


class Passage(NamedTuple):
    id: str
    title: str
    text: str


class BadCorpus(Exception):
    """The corpus cannot be read, or a row of it is wrong: one line that says where."""


class Corpus:
    """A stream of passages. `size` and `position` are in bytes or files, for a progress bar; 0 if unknown."""

    def __init__(self, source: str, skipped: Callable[[str], None] | None = None) -> None:
        self.source = source
        self.size = self.position = 0
        self.where = ""
        """The place of the passage that came last: a line or a file."""
        self._skipped = skipped

    def __iter__(self) -> Iterator[Passage]:
        self.position = 0
        if self.source.startswith(HUB):
            rows = self._hub(self.source.removeprefix(HUB))
        elif (path := Path(self.source)).is_dir():
            rows = self._folder(path)
        elif path.is_file():
            rows = self._jsonl(path)
        else:
            raise BadCorpus(f"{self.source} is neither a file nor a folder, nor hf:NAME of a data set")
        for row in rows:
            try:
                yield _checked(row)
            except BadCorpus as error:
                self.refuse(str(error))

    def again(self) -> Corpus:
        """The same stream for a second look, without saying again what is left out."""
        return Corpus(self.source, None if self._skipped is None else lambda _: None)

    def refuse(self, what: str) -> None:
        """The passage or row that came last is no good: the end, or a line for `skipped`."""
        line = f"{self.source}, {self.where}: {what}" if self.where else f"{self.source}: {what}"
        if self._skipped is None:
            raise BadCorpus(line)
        self._skipped(line)

    # ------------------------------------------------------------------ JSON lines

    def _jsonl(self, path: Path) -> Iterator[Any]:
        self.size = path.stat().st_size
        with path.open("rb") as raw:
            lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            number = 0
            try:
                while line := lines.readline(MAX_LINE + 1):
                    number += 1
                    self.where = f"line {number}"
                    self.position = raw.tell()
                    if len(line) > MAX_LINE:
                        while line and not line.endswith(b"\n"):
                            line = lines.readline(MAX_LINE)
                        self.refuse(f"longer than {MAX_LINE >> 20} MiB")
                    elif line.strip():
                        try:
                            yield _parsed(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                        except BadCorpus as error:
                            self.refuse(str(error))
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise BadCorpus(
                    f"{self.source} is a damaged gzip file after line {number}: {error}"
                ) from error

    # ------------------------------------------------------------------ folders

    def _folder(self, folder: Path) -> Iterator[Any]:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        if not files:
            known = ", ".join(sorted(SUFFIXES))
            raise BadCorpus(
                f"{self.source} holds no file to read ({known}); a corpus of rows is one JSONL file"
            )
        self.size = len(files)
        for number, path in enumerate(files, 1):
            name = path.relative_to(folder).as_posix()
            self.where = name
            try:
                title, text = _file_text(path)
            except BadCorpus as error:
                self.refuse(str(error))
                continue
            self.position = number
            for part, chunk in enumerate(chunks(text), 1):
                yield {"id": f"{name}#{part}", "title": title or path.stem, "text": chunk}

    # ------------------------------------------------------------------ the hub

    def _hub(self, name: str) -> Iterator[Any]:
        """NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT."""
        parts = name.split(":")
        if not parts[0] or len(parts) > 3:
            raise BadCorpus(f"{self.source}: give hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIGURATION:SPLIT")
        split = parts[-1] if len(parts) > 1 else "train"
        configuration = parts[1] if len(parts) == 3 else None
        from datasets import load_dataset

        number = 0
        try:
            rows = load_dataset(parts[0], configuration, split=split, streaming=True)
            for number, row in enumerate(rows, 1):
                self.where = f"row {number}"
                yield row
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            # Also of a client without a network: the hub's client has no error of its own for "unreachable".
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise BadCorpus(
                f"{self.source} cannot be read from the hub after {number} rows: {words[0][:300]}; if the "
                "hub cannot be reached from here, fetch the data set elsewhere and give it as a JSONL file"
            ) from error


# ---------------------------------------------------------------------- one row


def _parsed(line: bytes) -> Any:
    if b"\x00" in line:
        raise BadCorpus("null bytes: is this a text file?")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadCorpus(f"not UTF-8 at byte {error.start + 1}; convert it, for example with iconv") from error
    except json.JSONDecodeError as error:
        raise BadCorpus(f"not JSON: {error.msg} at character {error.pos + 1}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of thousands of digits
        raise BadCorpus(f"not JSON that can be read: {error}") from error


def _checked(row: Any) -> Passage:
    if not isinstance(row, dict):
        raise BadCorpus(f"a row must be an object with id, title and text, not {type(row).__name__}")
    name, title, text = row.get("id"), row.get("title"), row.get("text")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name.strip():
        raise BadCorpus(
            "no id" if name in (None, "") else f"id must be a text or an integer, not {name!r:.50}"
        )
    if text is None and isinstance(row.get("contents"), str):
        title, text = _split_contents(row["contents"], title)
    if text is None:
        raise BadCorpus(
            f"{name!r:.80} has neither text nor contents (it has {', '.join(map(str, row))[:200]})"
        )
    title = "" if title is None else title
    for field, value, most in (("id", name, MAX_ID), ("title", title, MAX_TITLE), ("text", text, MAX_TEXT)):
        if not isinstance(value, str):
            raise BadCorpus(f"{name!r:.80}: {field} must be a text, not {type(value).__name__}")
        if len(value) > most:
            hint = "; as files of a folder, long documents are cut into passages" if field == "text" else ""
            raise BadCorpus(f"{name!r:.80}: {field} has {len(value):,} characters, at most {most:,} go{hint}")
        if "\x00" in value:
            raise BadCorpus(f"{name!r:.80}: null bytes in {field}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadCorpus(f"{name!r:.80}: {field} is not valid Unicode ({error.reason})") from error
    if not text.strip():
        raise BadCorpus(f"{name!r:.80}: its text is empty")
    return Passage(name, " ".join(title.split()), text)


def _split_contents(contents: str, title: Any) -> tuple[Any, str]:
    """The wiki-18 shape: the title in quotes on the first line, the text after it."""
    head, newline, rest = contents.partition("\n")
    if title is None and newline and rest.strip():
        return head.strip().strip('"'), rest
    return title, contents


# ---------------------------------------------------------------------- files


def _file_text(path: Path) -> tuple[str, str]:
    size = path.stat().st_size
    if size > MAX_FILE:
        raise BadCorpus(f"{size >> 20} MiB, at most {MAX_FILE >> 20} MiB go")
    data = path.read_bytes()
    if b"\x00" in data:
        raise BadCorpus("null bytes: is this a text file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadCorpus(f"not UTF-8 at byte {error.start + 1}; convert it, for example with iconv") from error
    if path.suffix.lower() in (".html", ".htm"):
        page = _Page()
        page.feed(text)
        page.close()
        return " ".join(page.title.split())[:MAX_TITLE], page.text.getvalue()
    heading = re.search(r"^#{1,6}\s+(.+?)\s*#*\s*$", text, re.MULTILINE) if path.suffix != ".txt" else None
    return heading[1][:MAX_TITLE] if heading else "", text


class _Page(HTMLParser):
    """The visible text of an HTML page: blocks on lines of their own, no scripts, styles or templates."""

    _HIDDEN = frozenset({"script", "style", "template", "noscript", "svg"})
    _INLINE = frozenset(
        {"a", "abbr", "b", "code", "em", "i", "mark", "small", "span", "strong", "sub", "sup", "u"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.text = io.StringIO()
        self._hidden = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in self._HIDDEN
        self._in_title = tag == "title"
        if tag not in self._INLINE:
            self.text.write("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self._HIDDEN))
        self._in_title = False
        if tag not in self._INLINE:
            self.text.write("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self.text.write(data)


def chunks(text: str, words: int = CHUNK_WORDS, overlap: int = OVERLAP_WORDS) -> Iterator[str]:
    """Passages of at most `words` words that end with a sentence where one ends in their second half.

    Each begins at most `overlap` words before the end of the one before, with a sentence if one begins there.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    # A "word" without spaces (a data URL, say) may not make a passage larger than one may be.
    spans = [(piece, min(piece + 400, end)) for start, end in spans for piece in range(start, end, 400)]
    ends = [text[end - 1] in ".!?" or text[end : end + 2] == "\n\n" for _, end in spans]
    first = 0
    while first < len(spans):
        last = min(first + words, len(spans))
        if last < len(spans):
            last = next((at for at in range(last, first + words // 2, -1) if ends[at - 1]), last)
        yield text[spans[first][0] : spans[last - 1][1]]
        if last == len(spans):
            return
        sentences = (at for at in range(max(first + 1, last - overlap), last) if ends[at - 1])
        first = next(sentences, max(first + 1, last - overlap))
