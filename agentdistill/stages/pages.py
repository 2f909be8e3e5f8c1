"""What a RUN, or several beside each other, look like as a page (`evaluation/report.py`).

Guaranteed: figures as the summaries have them. Not guaranteed: all attempts; a page shows some, the RUN has
them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill.evaluation.report import (
    Accuracy,
    Difference,
    Example,
    RenderedAttempt,
    RenderedStep,
    ReportData,
)
from agentdistill.evaluation.stats import PairedDifference
from agentdistill.types import Score, StopReason, Trajectory

if TYPE_CHECKING:
    from agentdistill.stages.compare import Comparison, GradedRun, Pairing
    from agentdistill.stages.grade import GradeSummary

SHOWN = 12
"""Attempts on the page of one RUN, half of them wrong where there are as many."""
SHOWN_CHANGES = 40
"""Tasks with another verdict on the page of several RUNs, for each pair."""


def rendered(label: str, trajectory: Trajectory, correct: bool) -> RenderedAttempt:
    """An attempt as a page shows it. One without steps (a chain of thought) is its last message."""
    steps = [
        RenderedStep(step.thought, step.code or "", step.error or step.observation)
        for step in trajectory.steps
    ]
    if not steps and trajectory.messages and trajectory.messages[-1]["role"] == "assistant":
        steps = [RenderedStep(thought=trajectory.messages[-1]["content"])]
    return RenderedAttempt(label, steps, trajectory.answer, correct)


def run_page(
    record: Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    scores: Sequence[Score],
    summary: GradeSummary,
) -> ReportData:
    """The page of one graded RUN. `record` is its run.json."""
    name = Path(summary.run).name
    model = trajectories[0].model if trajectories else ""
    return ReportData(
        title=f"Run {name}",
        subtitle=f"{record['stage']} with {model}, {summary.all.n} attempts at {summary.tasks} tasks",
        facts=_facts(summary),
        accuracies=accuracies(name, model, summary),
        counts=_counts(trajectories, summary),
        examples=list(_examples(trajectories, scores)),
        examples_title="Some attempts",
        provenance=_provenance(record),
    )


def accuracies(label: str, model: str, summary: GradeSummary) -> list[Accuracy]:
    """A row for each source, and one for all where there are several."""
    rows = {**summary.by_source, "all": summary.all} if len(summary.by_source) > 1 else summary.by_source
    return [
        Accuracy(
            label=label,
            model=model,
            benchmark=source,
            correct=found.successes,
            n=found.n,
            low=found.low,
            high=found.high,
            note=f"F1 {100 * summary.f1[source]:.1f}" if source in summary.f1 else "",
        )
        for source, found in rows.items()
    ]


def comparison_page(found: Comparison) -> ReportData:
    """The page of several graded RUNs; all pairs are with the first."""
    first = found.runs[0]
    examples = [example for pairing in found.pairings for example in _changes(first, pairing)]
    provenance: dict[str, str] = {}
    for run in found.runs:
        provenance |= {f"{run.label}: {key}": value for key, value in _provenance(run.record).items()}
    return ReportData(
        title=" and ".join(run.label for run in found.runs) if len(found.runs) == 2 else "Runs compared",
        subtitle=f"differences are with {first.label}, on the tasks that both runs have",
        facts={run.label: f"{100 * run.summary.all.rate:.1f} % of {run.summary.all.n}" for run in found.runs},
        accuracies=[row for run in found.runs for row in accuracies(run.label, run.model, run.summary)],
        differences=[row for pairing in found.pairings for row in _differences(pairing)],
        counts=_costs(found.runs),
        examples=examples,
        examples_title="Tasks whose verdict changed",
        provenance=provenance,
    )


def _differences(pairing: Pairing) -> Iterator[Difference]:
    rows = pairing.rows()
    for source, found in rows.items():
        unpaired = pairing.unpaired() if source == list(rows)[-1] else ""
        yield Difference(
            label=pairing.label,
            benchmark=source,
            difference=found.difference,
            low=found.low,
            high=found.high,
            gained=found.gained,
            lost=found.lost,
            note=f"{found.n} tasks paired; {pairing.test(found)}. {unpaired}".strip(),
        )


def _changes(first: GradedRun, pairing: Pairing) -> Iterator[Example]:
    for task in pairing.changed[:SHOWN_CHANGES]:
        before, after = first.attempts[task], pairing.run.attempts[task]
        # With several samples: one whose verdict is that of the change.
        gained = pairing.share(after) > pairing.share(before)
        yield Example(
            question=before[0][0].task.question,
            gold=before[0][0].task.answer,
            attempts=[
                rendered(first.label, *_with_verdict(before, not gained)),
                rendered(pairing.run.label, *_with_verdict(after, gained)),
            ],
            note=f"{'gained' if gained else 'lost'} by {pairing.run.label}, {task}",
        )


def _with_verdict(attempts: Sequence[tuple[Trajectory, bool]], correct: bool) -> tuple[Trajectory, bool]:
    return next((attempt for attempt in attempts if attempt[1] is correct), attempts[0])


def _facts(summary: GradeSummary) -> dict[str, str]:
    calls = sum(summary.tool_calls.values())
    facts = {
        "Right": f"{100 * summary.all.rate:.1f} %",
        "Steps an attempt": f"{summary.steps:.1f}",
        "Tokens read, written": f"{summary.tokens_in:,.0f}, {summary.tokens_out:,.0f} an attempt",
        "Seconds an attempt": f"{summary.seconds:.1f}",
        "Tool calls an attempt": f"{calls:.1f}" if calls else "",
        "Cost of all": f"${summary.total.usd:.4f}" if summary.total.usd is not None else "",
        "Failed attempts": str(summary.failed) if summary.failed else "",
    }
    facts |= {f"pass@{k}": f"{100 * share:.1f} %" for k, share in summary.pass_at.items()}
    if summary.agreement is not None:
        found = summary.agreement
        facts["Judge and exact match agree"] = f"{found.both + found.neither} of {found.n} ({found.judge})"
    return {name: value for name, value in facts.items() if value}


def _counts(trajectories: Sequence[Trajectory], summary: GradeSummary) -> dict[str, dict[str, int]]:
    steps = Counter(len(trajectory.steps) for trajectory in trajectories)
    return {
        "How attempts ended": {name.replace("_", " "): n for name, n in summary.stopped.items() if n},
        "Steps": {f"{n} steps" if n != 1 else "1 step": steps[n] for n in sorted(steps)},
        "Steps with errors": summary.step_errors,
        "Graded by": summary.methods,
    }


def _costs(runs: Iterable[GradedRun]) -> dict[str, dict[str, int]]:
    return {
        "Tokens written an attempt": {run.label: round(run.summary.tokens_out) for run in runs},
        "Tokens read an attempt": {run.label: round(run.summary.tokens_in) for run in runs},
        "Seconds an attempt": {run.label: round(run.summary.seconds) for run in runs},
        "Attempts stopped by the step limit": {
            run.label: run.summary.stopped[StopReason.MAX_STEPS] for run in runs
        },
    }


def _examples(trajectories: Sequence[Trajectory], scores: Sequence[Score]) -> Iterator[Example]:
    """Wrong and right ones in turn, as far as there are both."""
    pairs = list(zip(trajectories, scores, strict=True))
    wrong = [pair for pair in pairs if not pair[1].correct]
    right = [pair for pair in pairs if pair[1].correct]
    kept = wrong[: max(SHOWN // 2, SHOWN - len(right))]
    for trajectory, score in [*kept, *right[: SHOWN - len(kept)]]:
        yield Example(
            question=trajectory.task.question,
            gold=trajectory.task.answer,
            attempts=[rendered(trajectory.model, trajectory, score.correct)],
            note=f"{score.method}{': ' if score.detail else ''}{score.detail}, {trajectory.task.id}",
        )


def _provenance(record: Mapping[str, Any]) -> dict[str, str]:
    shape = {name: str(value) for name, value in record["shape"].items() if value not in (None, [], {})}
    asked = {
        f"asked {name}": str(value) for name, value in record.get("asked", {}).items() if value is not None
    }
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return {**shape, **asked, "versions": versions, "git": str(record.get("git") or "")}


def markdown(found: Comparison) -> str:
    """The table of a paper or a model card: who by benchmark, per cent with the interval, then the
    differences."""
    sources = list(dict.fromkeys(source for run in found.runs for source in run.rows()))
    lines = [
        "| run | model | " + " | ".join(sources) + " |",
        "|---|---|" + "---|" * len(sources),
    ]
    for run in found.runs:
        rows = run.rows()
        cells = [
            f"{100 * rows[s].rate:.1f} ({100 * rows[s].low:.1f}–{100 * rows[s].high:.1f}, n={rows[s].n})"
            if s in rows
            else ""
            for s in sources
        ]
        lines.append(f"| {_cell(run.label)} | {_cell(run.model)} | " + " | ".join(cells) + " |")
    lines += ["", "Per cent right, with 95 % intervals.", ""]
    for pairing in found.pairings:
        lines += [f"- {_cell(pairing.label)}: {_in_words(pairing, pairing.all)}"]
    return "\n".join(lines) + "\n"


def _in_words(pairing: Pairing, found: PairedDifference) -> str:
    return (
        f"{100 * found.difference:+.1f} points (95 % interval {100 * found.low:+.1f} to "
        f"{100 * found.high:+.1f}, {found.n} tasks paired, {found.gained} gained, "
        f"{found.lost} lost, {pairing.test(found)}). {pairing.unpaired()}"
    ).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
