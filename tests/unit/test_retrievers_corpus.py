"""The corpus reader: the shapes it takes, and one line for everything that is wrong."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers.corpus import CHUNK_WORDS, MAX_TEXT, OVERLAP_WORDS, BadCorpus, Corpus, Passage, chunks

GOOD = {"id": "a", "title": "Nile", "text": "A river."}


def lines(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def read(path: Path, content: bytes | None = None) -> list[Passage]:
    if content is not None:
        path.write_bytes(content)
    return list(Corpus(str(path)))


def refusal(path: Path, content: bytes | None = None) -> str:
    with pytest.raises(BadCorpus) as caught:
        read(path, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corpus.jsonl"


# Rows


def test_id_title_text(file: Path) -> None:
    assert read(file, lines(GOOD, {"id": 7, "text": "Seven."})) == [
        Passage("a", "Nile", "A river."),
        Passage("7", "", "Seven."),
    ]


def test_the_shape_of_wiki_18(file: Path) -> None:
    rows = lines({"id": "0", "contents": '"Nile"\nA river\nin Africa.'}, {"id": "1", "contents": "No title"})
    assert read(file, rows) == [Passage("0", "Nile", "A river\nin Africa."), Passage("1", "", "No title")]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline(file: Path) -> None:
    content = b"\xef\xbb\xbf" + lines(GOOD, b"\n", {"id": "b", "text": "x"}).rstrip()
    assert [passage.id for passage in read(file, content)] == ["a", "b"]


def test_a_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    assert read(path, gzip.compress(lines(GOOD))) == [Passage(**GOOD)]
    assert "damaged gzip file" in refusal(path, gzip.compress(lines(GOOD))[:-9])


BAD_ROWS = {
    "no JSON": (b"{nope}\n", "not JSON"),
    "no object": ([1], "a row must be an object"),
    "no id": ({"text": "x"}, "no id"),
    "an id of another type": ({"id": 1.5, "text": "x"}, "id must be a text or an integer"),
    "a truth as id": ({"id": True, "text": "x"}, "id must be a text or an integer"),
    "no text": ({"id": "b", "body": "x"}, "'b' has neither text nor contents (it has id, body)"),
    "a text of another type": ({"id": "b", "text": ["x"]}, "'b': text must be a text, not list"),
    "a blank text": ({"id": "b", "text": " \n"}, "'b': its text is empty"),
    "a null byte as it is": (b'{"id": "b", "text": "x\x00"}\n', "null bytes"),
    "an escaped null byte": ({"id": "b", "text": "x\x00y"}, "'b': null bytes in text"),
    "half a surrogate pair": (b'{"id": "b", "text": "\\ud800"}\n', "'b': text is not valid Unicode"),
    "Latin-1": ('{"id": "b", "text": "é"}\n'.encode("latin-1"), "not UTF-8 at byte 22"),
    "10 MB": ({"id": "b", "text": "x" * 10_000_000}, "text has 10,000,000 characters, at most 50,000 go"),
    "a deep nest": (b'{"id": ' + b"[" * 200_000 + b"\n", "not JSON"),
    "a huge number": (b'{"id": ' + b"1" * 10_000 + b', "text": "x"}\n', "not JSON"),
    "a line without an end": (b'{"id": "' + b"x" * (17 << 20) + b'"}\n', "longer than 16 MiB"),
}


@pytest.mark.parametrize(("row", "what"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_one_line_with_its_number(file: Path, row: Any, what: str) -> None:
    line = refusal(file, lines(GOOD, b"\n", row))
    assert f"{file}, line 3: " in line
    assert what in line
    assert len(line) < 400 + len(str(file))


def test_a_text_of_the_longest_length_goes(file: Path) -> None:
    assert len(read(file, lines({"id": "a", "text": "é" * MAX_TEXT}))) == 1


def test_bad_rows_are_left_out_when_asked_for(file: Path) -> None:
    file.write_bytes(lines(GOOD, *(row for row, _ in BAD_ROWS.values()), {"id": "z", "text": "last"}))
    skipped: list[str] = []
    assert [passage.id for passage in Corpus(str(file), skipped.append)] == ["a", "z"]
    assert [line.partition("line ")[2].partition(":")[0] for line in skipped] == [
        str(number) for number in range(2, len(BAD_ROWS) + 2)
    ]


def test_a_source_that_is_not_there() -> None:
    assert "nowhere is neither a file nor a folder" in refusal(Path("nowhere"))


# Folders


def test_files_of_a_folder_become_passages_with_their_source(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "nile.md").write_text("intro\n\n# The *Nile* #\n\nA river.")
    (tmp_path / "a.txt").write_text("Plain text.")
    (tmp_path / "page.html").write_text(
        "<title>A &amp; B</title><style>p {}</style><p>One <b>t</b>wo</p><script>alert()</script><p>three"
    )
    (tmp_path / "image.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.txt").write_text("hidden")
    found = read(tmp_path)
    assert [(passage.id, passage.title) for passage in found] == [
        ("a.txt#1", "a"),
        ("b/nile.md#1", "The *Nile*"),
        ("page.html#1", "A & B"),
    ]
    assert found[0].text == "Plain text."
    assert found[2].text.split() == ["One", "two", "three"]


def test_a_folder_without_readable_files(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert "holds no file to read (.htm, .html, .markdown, .md, .txt)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"), [(b"\xe9t\xe9", "not UTF-8 at byte 1"), (b"a\x00", "null bytes")]
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "old.txt").write_bytes(content)
    assert f"{tmp_path}, old.txt: {what}" in refusal(tmp_path)


def test_chunks_overlap_and_end_with_a_sentence() -> None:
    sentences = [f"Sentence {number} has exactly seven words here." for number in range(60)]
    found = list(chunks(" ".join(sentences)))
    assert len(found) > 3
    for one, following in itertools.pairwise(found):
        assert one.endswith(".")
        assert following.startswith("Sentence")
        shared = set(one.split(". ")) & set(following.split(". "))
        assert shared, "nothing overlaps"


@given(st.text(alphabet="ab. \n", max_size=3000), st.integers(2, 40))
def test_chunks_hold_every_word_in_its_order(text: str, words: int) -> None:
    found = [chunk.split() for chunk in chunks(text, words, words // 4)]
    assert all(0 < len(chunk) <= words for chunk in found)
    joined: list[str] = []
    for chunk in found:
        overlap = next(n for n in range(words // 4 + 1, -1, -1) if joined[len(joined) - n :] == chunk[:n])
        joined += chunk[overlap:]
    # An overlap may be read as longer than it was where words repeat: no word is lost all the same.
    assert len(joined) <= len(text.split())
    assert set(joined) == set(text.split())
    if found:
        assert found[0] == text.split()[: len(found[0])]
        assert found[-1] == text.split()[-len(found[-1]) :]


def test_a_word_without_end_is_cut() -> None:
    assert max(map(len, chunks("x" * 1_000_000))) <= MAX_TEXT
    assert CHUNK_WORDS > 2 * OVERLAP_WORDS


# The hub


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadCorpus, match=r"hf:nobody/nothing cannot be read from the hub.*JSONL file"):
        list(Corpus("hf:nobody/nothing"))


def test_a_data_set_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a folder by the same call as a data set of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(lines(GOOD, {"id": "b", "text": "two", "title": None}))
    (folder / "test.jsonl").write_bytes(lines({"id": "c", "text": ""}))
    assert list(Corpus(f"hf:{folder}")) == [Passage(**GOOD), Passage("b", "", "two")]
    with pytest.raises(BadCorpus, match="row 1: 'c': its text is empty"):
        list(Corpus(f"hf:{folder}:test"))


@pytest.mark.parametrize("source", ["hf:", "hf:a:b:c:d"])
def test_a_malformed_name_of_a_data_set(source: str) -> None:
    with pytest.raises(BadCorpus, match="hf:NAME:CONFIGURATION:SPLIT"):
        list(Corpus(source))
