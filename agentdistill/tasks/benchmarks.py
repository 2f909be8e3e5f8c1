"""The benchmarks by name, and where their rows are.

A name is `NAME`, `NAME/SUBSET`, `NAME:SPLIT` or `NAME/SUBSET:SPLIT`; without a split it is the one that
models are tested on. In the folder AGENTDISTILL_DATA the files of `math500:test` are `math500_test.jsonl`,
`math500_test_*.jsonl` and `math500/test.jsonl`; those of `bbh/navigate` are `bbh/navigate.jsonl` and
`bbh/navigate_test.jsonl`; `bbh` is all of its subsets in order of their names. `.json` is looked for as
well (the reference's shape). What the folder lacks comes from the hub.

Guaranteed: a task's id is `NAME[/SUBSET]:SPLIT/ID`, where ID is the data set's own, or the row's number
where it has none; where an id repeats the row's number is added. Not guaranteed: that two copies of a
benchmark, one in a folder and one on the hub, are the same rows; the test sets of the paper (500 tasks each
of hotpotqa, musique, 2wikimultihopqa and gsm-hard) are samples, the hub has the whole sets. The hub's
columns are written down from its pages and were not tried against the live hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentdistill.errors import TaskFileError
from agentdistill.tasks.rows import Origin
from agentdistill.types import Json, TaskKind

ENVIRONMENT = "AGENTDISTILL_DATA"
"""The environment variable that names a folder of benchmarks."""

Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Hub:
    """Where the hub has a benchmark: repository, configuration by subset, our split to the hub's.

    `{subset}` in the repository stands for the subset. `row` turns a row of the hub into one of ours.
    """

    repository: str
    row: Callable[[Row], dict[str, Json]]
    splits: Mapping[str, str]
    subsets: Mapping[str, str | None] = field(default_factory=lambda: {"": None})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark. `kind` None: each row's answer tells."""

    name: str
    about: str
    kind: TaskKind | None
    hub: Hub
    split: str = "test"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a name has chosen: one subset of a benchmark or, if it is "", all of them."""

    benchmark: Benchmark
    subset: str
    split: str

    def __str__(self) -> str:
        return f"{self.benchmark.name}{'/' + self.subset if self.subset else ''}:{self.split}"

    def origin(self, stem: str, subset: str, part: str = "") -> Origin:
        """Of the rows of one subset, or of one `part` of a split that lies in several files."""
        dataset = f"{self.benchmark.name}/{subset}" if subset else self.benchmark.name
        prefix = f"{dataset}:{self.split}{'/' + part if part else ''}"
        return Origin(stem, dataset, self.split, prefix, self.benchmark.kind)


def choose(name: str) -> Choice | None:
    """The benchmark of a name; None for what is no benchmark's name. Raises TaskFileError for a subset or
    split that neither the folder nor the hub has."""
    match = re.fullmatch(r"([\w-]+)(?:/([\w-]+))?(?::([\w-]+))?", name)
    benchmark = BENCHMARKS.get(match[1].lower()) if match else None
    if match is None or benchmark is None:
        return None
    choice = Choice(benchmark, match[2] or "", match[3] or benchmark.split)
    if not files_of(choice):
        if choice.subset and choice.subset not in benchmark.hub.subsets:
            known = ", ".join(filter(None, benchmark.hub.subsets)) or "none"
            raise TaskFileError(
                f"{name}: {benchmark.name} has no subset {choice.subset!r}", f"the subsets are {known}"
            )
        if choice.split not in benchmark.hub.splits:
            raise TaskFileError(
                f"{name}: {benchmark.name} has no split {choice.split!r}",
                f"the splits are {', '.join(benchmark.hub.splits)}, and what the folder {ENVIRONMENT} holds",
            )
    return choice


def data_folder() -> Path | None:
    """The folder of benchmarks, if there is one. Raises TaskFileError if it is none."""
    name = os.environ.get(ENVIRONMENT)
    if not name:
        return None
    if not Path(name).is_dir():
        raise TaskFileError(
            f"{ENVIRONMENT}={name} is no folder", "name one that holds benchmarks, or unset it"
        )
    return Path(name)


def files_of(choice: Choice) -> list[tuple[Path, Origin]]:
    """The files of a choice in the folder, in order of their names; none if it is not there."""
    folder = data_folder()
    if folder is None:
        return []
    name, split = choice.benchmark.name, choice.split
    if choice.subset:
        stems = (
            [choice.subset, f"{choice.subset}_{split}"]
            if _is_default(choice)
            else [f"{choice.subset}_{split}"]
        )
        paths = _existing(folder / name, stems)[:1]
        return [(path, choice.origin(path.stem, choice.subset)) for path in paths]
    if whole := _existing(folder, [f"{name}_{split}"]) or _existing(folder / name, [split]):
        return [(whole[0], choice.origin(whole[0].stem, ""))]
    start = f"{name}_{split}_"
    if parts := _matching(folder, f"{start}*"):
        return [(path, choice.origin(path.stem, "", path.stem.removeprefix(start))) for path in parts]
    subsets: dict[str, Path] = {}
    for path in _matching(folder / name, "*"):
        subset = path.stem.removesuffix(f"_{split}")
        if subset != path.stem or _is_default(choice):
            subsets.setdefault(subset, path)
    return [(path, choice.origin(path.stem, subset)) for subset, path in sorted(subsets.items())]


def splits_in_folder(benchmark: Benchmark) -> list[str]:
    """The splits of a benchmark that the folder holds, and its subsets as "NAME/SUBSET"."""
    folder = data_folder()
    if folder is None:
        return []
    name = benchmark.name
    stems = [path.stem.removeprefix(f"{name}_") for path in _matching(folder, f"{name}_*")]
    # math_train_medium and math_train_hard are two parts of one split.
    found = {stem.split("_")[0]: None for stem in stems}
    for path in _matching(folder / name, "*"):
        found[path.stem if path.stem in benchmark.hub.splits else f"{name}/{path.stem}"] = None
    return list(found)


def _is_default(choice: Choice) -> bool:
    return choice.split == choice.benchmark.split


def _existing(folder: Path, stems: list[str]) -> list[Path]:
    paths = [folder / f"{stem}.{ending}" for stem in stems for ending in ("jsonl", "json")]
    return [path for path in paths if path.is_file()]


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for ending in ("jsonl", "json") for path in folder.glob(f"{pattern}.{ending}"))


# -- rows of the hub ------------------------------------------------------------------------------


def _columns(
    question: str, answer: str, key: str | None = None, *keep: str
) -> Callable[[Row], dict[str, Json]]:
    """Rows whose columns only have other names. `keep` are columns that go into a task's meta."""

    def row(found: Row) -> dict[str, Json]:
        made = {"question": found[question], "answer": found[answer]}
        if key is not None:
            made["id"] = found[key]
        return made | {name: found[name] for name in keep if found.get(name) is not None}

    return row


def _boxed_solution(found: Row) -> dict[str, Json]:
    """MATH as it was published: the answer stands in the box of the solution."""
    solution = str(found["solution"])
    start = solution.rfind("\\boxed{")
    depth, end = 0, -1
    for index in range(start + 6, len(solution)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[index], 0)
        if depth == 0:
            end = index
            break
    # Without a box there is no answer, and the row is a bad one.
    answer = solution[start + 7 : end] if end >= 0 else None
    return {
        "question": found["problem"],
        "answer": answer,
        "level": found["level"],
        "type": found["type"],
        "solution": solution,
    }


def _arc(found: Row) -> dict[str, Json]:
    """ARC labels its options with letters or with numbers; ours are letters."""
    texts, labels = found["choices"]["text"], list(found["choices"]["label"])
    options = [f"({chr(ord('A') + index)}) {text}" for index, text in enumerate(texts)]
    return {
        "id": found["id"],
        "question": "\n".join([str(found["question"]), "Options:", *options]),
        "answer": f"({chr(ord('A') + labels.index(found['answerKey']))})",
        "kind": "choice",
    }


def _agieval(found: Row) -> dict[str, Json]:
    """A query holds its options; `gold` is the index of the right one, or several."""
    query = re.sub(r"\n?A:[^\n]*$", "", str(found["query"])).removeprefix("Q:").strip()
    if "answer" in found:
        return {"question": query, "answer": found["answer"], "kind": "math"}
    gold = found["gold"] if isinstance(found["gold"], list) else [found["gold"]]
    answer = f"({chr(ord('A') + gold[0])})" if len(gold) == 1 else None
    return {"question": query, "answer": answer, "kind": "choice"}


_BBH = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages"),
    *("formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects"),
    *("logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation"),
    *("multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table"),
    *("reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks"),
    *("sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects"),
    *("tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies"),
    "word_sorting",
)
_MATH = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory"),
    *("prealgebra", "precalculus"),
)
_AGIEVAL = ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "math", "sat-en", "sat-math")

_ALL = (
    Benchmark(
        "hotpotqa",
        "multi-hop questions over Wikipedia",
        TaskKind.QA,
        Hub(
            "hotpotqa/hotpot_qa",
            _columns("question", "answer", "id", "level", "type"),
            {"test": "validation", "train": "train"},  # the hub's own test split has no answers
            {"": "distractor"},
        ),
    ),
    Benchmark(
        "musique",
        "multi-hop questions made of single ones",
        TaskKind.QA,
        Hub(
            "dgslibisey/MuSiQue",
            _columns("question", "answer", "id", "answer_aliases"),
            {"test": "validation", "train": "train"},
        ),
    ),
    Benchmark(
        "bamboogle",
        "two-hop questions that a search engine alone does not answer",
        TaskKind.QA,
        Hub("chiayewken/bamboogle", _columns("Question", "Answer"), {"test": "test"}),
    ),
    Benchmark(
        "2wikimultihopqa",
        "multi-hop questions over Wikipedia and Wikidata",
        TaskKind.QA,
        Hub(
            "framolfese/2WikiMultihopQA",
            _columns("question", "answer", "id", "type"),
            {"test": "validation", "train": "train"},
        ),
    ),
    Benchmark(
        "math500",
        "competition mathematics, 500 of MATH's test problems",
        TaskKind.MATH,
        Hub(
            "HuggingFaceH4/MATH-500",
            _columns("problem", "answer", "unique_id", "level", "subject"),
            {"test": "test"},
        ),
    ),
    Benchmark(
        "math",
        "competition mathematics (MATH)",
        TaskKind.MATH,
        Hub(
            "EleutherAI/hendrycks_math",
            _boxed_solution,
            {"train": "train", "test": "test"},
            {subset: subset for subset in _MATH},
        ),
    ),
    Benchmark(
        "gsm8k",
        "school arithmetic in words",
        TaskKind.MATH,
        Hub("openai/gsm8k", _columns("question", "answer"), {"test": "test", "train": "train"}, {"": "main"}),
    ),
    Benchmark(
        "gsm-hard",
        "GSM8K with large numbers",
        TaskKind.MATH,
        Hub("reasoning-machines/gsm-hard", _columns("input", "target"), {"test": "train"}),
    ),
    Benchmark(
        "aime",
        "AIME 2022 to 2024, 90 problems",
        TaskKind.MATH,
        Hub("AI-MO/aimo-validation-aime", _columns("problem", "answer", "id"), {"test": "train"}),
    ),
    Benchmark(
        "olymmath",
        "olympiad mathematics, easy and hard",
        TaskKind.MATH,
        Hub(
            "RUC-AIBOX/OlymMATH",
            _columns("problem", "answer", "unique_id", "subject"),
            {"test": "test"},
            {"en-easy": "en-easy", "en-hard": "en-hard"},
        ),
    ),
    Benchmark(
        "bbh",
        "BIG-Bench Hard",
        None,
        Hub("SaylorTwift/bbh", _columns("input", "target"), {"test": "test"}, {name: name for name in _BBH}),
    ),
    Benchmark(
        "arc",
        "school science with options",
        TaskKind.CHOICE,
        Hub(
            "allenai/ai2_arc",
            _arc,
            {"test": "test", "train": "train", "validation": "validation"},
            {"challenge": "ARC-Challenge", "easy": "ARC-Easy"},
        ),
    ),
    Benchmark(
        "agieval",
        "entrance and law examinations, the English ones",
        None,
        Hub("hails/agieval-{subset}", _agieval, {"test": "test"}, dict.fromkeys(_AGIEVAL)),
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
