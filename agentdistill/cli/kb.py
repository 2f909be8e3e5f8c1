"""`agentdistill kb ...`: make, search and look after a knowledge base of small YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.stages.knowledge import BuildSummary
    from agentdistill.stages.knowledge_review import UseSummary

app = typer.Typer(
    help="Notes on what students get wrong: made from failures, edited by people, given to models.",
    no_args_is_help=True,
)

KB = Annotated[Path, typer.Argument(help="KB folder.", metavar="KB")]
EntryId = Annotated[str, typer.Argument(help="Id of an entry.", metavar="ID")]
Hybrid = Annotated[
    bool,
    typer.Option(
        "--hybrid",
        help="By meaning too; loads a sentence encoder (seconds), or asks the retriever that is up.",
    ),
]


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Graded RUN folder of a student.", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="KB folder; the same command resumes it.")],
    model: Annotated[str, typer.Option(help="The teacher that writes the entries (SPEC as of generate).")],
    limit: Annotated[
        int | None, typer.Option(help="Only the first N failed tasks.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Replies asked for side by side, at most.", min=1)] = 4,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of an engine in process. \\[default: all]")
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="Prompt file like prompts/distill.yaml.", show_default=False)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="USD the whole KB may cost; needs a price in --config.", show_default=False),
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Tokens the whole KB may take.", show_default=False)
    ] = None,
    lexical: Annotated[
        bool, typer.Option("--lexical", help="No encoder: only entries that say exactly the same are merged.")
    ] = False,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
) -> None:
    """Let a teacher write an entry for every task that a student has failed.

    The teacher sees neither the right answers nor its own; an entry that states one, or repeats its question,
    is refused and counted. Example: agentdistill kb build runs/pilot -o kb --model qwen2.5-coder-1.5b
    """
    from agentdistill.cli.console import Bars, print_json
    from agentdistill.errors import UsageError
    from agentdistill.knowledge.distill import load_distill_prompt
    from agentdistill.models.spec import open_model
    from agentdistill.stages.knowledge import build as make
    from agentdistill.stages.progress import fetching
    from agentdistill.stages.spending import Budget
    from agentdistill.types import to_json

    try:
        text = prompt.read_text(encoding="utf-8") if prompt else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt {prompt} cannot be read: {error}") from error
    wording = load_distill_prompt(text)
    encoder = None if lexical else o.sentence_encoder()
    teacher = open_model(model, slots=concurrency, threads=threads, progress=fetching(model, Bars()))
    try:
        summary = make(
            run,
            out,
            teacher,
            encoder=encoder,
            prompt=wording,
            limit=limit,
            concurrency=concurrency,
            price=o.price_of(teacher.model_id, config),
            budget=Budget(budget, budget_tokens),
            progress=Bars(),
        )
    finally:
        teacher.close()
    if as_json:
        print_json(to_json(summary))
    _tell_build(summary)
    if summary.parked:
        raise typer.Exit(1)


@app.command()
def search(
    kb: KB,
    query: Annotated[str, typer.Argument(help="What to look for, say a task's question.")],
    k: Annotated[int, typer.Option("-k", help="How many entries.", min=1, max=1000)] = 5,
    hybrid: Hybrid = False,
    family: Annotated[
        str | None, typer.Option(help="Only for tasks of this family.", show_default=False)
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only for tasks of this kind.", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Drafts and retired entries, too.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Find entries by words, or with --hybrid by meaning too; active ones, unless told otherwise.

    Example: agentdistill kb search kb "How many fruits do I have?" -k 3
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.knowledge.entry import Status
    from agentdistill.knowledge.entry import as_json as plain
    from agentdistill.knowledge.recall import Filter

    searcher = o.open_knowledge(kb, hybrid=hybrid)
    statuses = frozenset(map(str, Status if all_ else [Status.ACTIVE]))
    hits = searcher.search(query, k, Filter(kind, family, statuses=statuses))
    if as_json:
        rows = [
            {"score": hit.score, "word_rank": hit.word_rank, "cosine": hit.cosine, "entry": plain(hit.entry)}
            for hit in hits
        ]
        print_json({"mode": searcher.mode, "hits": rows})
        return
    if not hits:
        err.print(f"nothing found ({searcher.mode} search)")
    for rank, hit in enumerate(hits, 1):
        cosine = "" if hit.cosine is None else f"  cosine {hit.cosine:.2f}"
        typer.echo(f"{rank:>2}. {hit.entry.title}  [{hit.entry.id}]  {searcher.mode} {hit.score:.4f}{cosine}")
        typer.echo(f"    when: {hit.entry.trigger}")


@app.command()
def show(kb: KB, id: EntryId, as_json: o.AsJson = False) -> None:
    """Print an entry as it stands in its file.

    Example: agentdistill kb show kb counting-objects-of-a-category-3fa2b1
    """
    from agentdistill.cli.console import print_json
    from agentdistill.knowledge.entry import as_json as plain
    from agentdistill.knowledge.entry import write_entry
    from agentdistill.knowledge.folder import EntryFolder

    entry, path = EntryFolder(kb).entry(id)
    if as_json:
        print_json({"file": str(path), **plain(entry)})
        return
    typer.echo(write_entry(entry), nl=False)


@app.command()
def edit(
    kb: KB,
    id: EntryId,
    new: Annotated[bool, typer.Option("--new", help="Make an entry with this id.")] = False,
) -> None:
    """Open an entry in $VISUAL or $EDITOR. What is saved is checked; a text with mistakes is kept.

    Example: agentdistill kb edit kb unit-conversions --new
    """
    import getpass
    import os
    import shlex
    import subprocess

    from agentdistill.cli.console import err
    from agentdistill.errors import UsageError
    from agentdistill.knowledge.edit import begin, finish
    from agentdistill.knowledge.folder import EntryFolder

    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not editor:
        raise UsageError("no editor is set", "set $EDITOR, or edit the file itself and run `kb lint`")
    folder = EntryFolder(kb, create=new)
    draft = begin(folder, id, new_author=getpass.getuser() if new else "")
    try:
        code = subprocess.run([*editor, str(draft.path)], check=False).returncode
    except OSError as error:
        raise UsageError(f"{editor[0]} cannot be started: {error.strerror}", "set $EDITOR") from error
    if code:
        raise UsageError(f"{editor[0]} ended with code {code}; nothing is saved", f"your text: {draft.path}")
    err.print(f"{id}: {'saved' if finish(folder, draft) else 'nothing changed'}", markup=False)


@app.command()
def lint(
    kb: KB,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Task file or benchmark whose answers no entry made from it may hold. Repeatable.",
            show_default=False,
        ),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Name everything that is wrong, with file and line; with --tasks also entries that give an answer away.

    Example: agentdistill kb lint kb --tasks gsm8k_train.jsonl
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.knowledge.folder import EntryFolder
    from agentdistill.stages.knowledge_review import audit
    from agentdistill.tasks.load import load_tasks
    from agentdistill.types import to_json

    entries, review, problems = EntryFolder(kb).check()
    known = [task for source in tasks or () for task in load_tasks(source).tasks]
    leaks = audit([*entries, *review], known)
    made_of = {question for entry in entries for question in entry.questions}
    if as_json:
        print_json(
            {
                "entries": len(entries),
                "review": len(review),
                "problems": to_json(problems),
                "leaks": to_json(leaks),
            }
        )
    for problem in problems:
        err.print(str(problem), markup=False, soft_wrap=True)
    for leak in leaks:
        err.print(f"{leak.entry}: {leak.reason} (task {leak.task})", markup=False, soft_wrap=True)
    checked = _checked(known, made_of) if known else ""
    err.print(
        f"{len(entries)} entries, {len(review)} in review, {len(problems)} problems{checked}", markup=False
    )
    if problems or leaks:
        raise typer.Exit(1)


@app.command()
def merge(
    kb: KB,
    ids: Annotated[
        list[str] | None, typer.Argument(help="An entry, and one that goes into it.", metavar="[ID OTHER]")
    ] = None,
    lexical: Annotated[
        bool, typer.Option("--lexical", help="No encoder: only what says exactly the same.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Make entries that say the same one; or two of your choice, also from KB/review.

    Example: agentdistill kb merge kb --lexical
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.errors import UsageError
    from agentdistill.knowledge.edit import merge_pair
    from agentdistill.knowledge.folder import EntryFolder
    from agentdistill.stages.knowledge_review import merge_all

    folder = EntryFolder(kb)
    done: list[tuple[str, str]] = []
    left: list[tuple[str, str, str]] = []
    if ids:
        if len(ids) != 2:
            raise UsageError(f"{len(ids)} ids: give two, or none to look at all entries")
        merge_pair(folder, *ids)
        done.append((ids[0], ids[1]))
    else:
        done, left = merge_all(folder, None if lexical else o.sentence_encoder())
    if as_json:
        print_json({"merged": done, "left": left})
    for one, other in done:
        err.print(f"{other} went into {one}", markup=False)
    for one, other, why in left:
        err.print(f"{other} is left beside {one}: {why}", markup=False)
    err.print(f"{len(done)} merged, {len(left)} for you to settle")


@app.command()
def retire(
    kb: KB, ids: Annotated[list[str], typer.Argument(help="Ids of entries.", metavar="ID...")]
) -> None:
    """Give entries to no model any more. Their files stay; `kb edit` brings one back.

    Example: agentdistill kb retire kb counting-objects-of-a-category-3fa2b1
    """
    from agentdistill.cli.console import err
    from agentdistill.knowledge.entry import Status
    from agentdistill.knowledge.folder import EntryFolder

    folder = EntryFolder(kb)
    found = [folder.entry(id) for id in ids]  # all of them, or none
    for entry, path in found:
        folder.save(entry.model_copy(update={"status": Status.RETIRED}), review=path.parent.name == "review")
    err.print(f"{len(found)} retired")


@app.command()
def stats(
    with_kb: Annotated[Path, typer.Argument(help="Graded RUN made with --kb.", metavar="RUN_WITH")],
    without: Annotated[Path, typer.Argument(help="The same tasks without it.", metavar="RUN_WITHOUT")],
    write: Annotated[
        Path | None, typer.Option(help="KB folder whose entries note these counts.", show_default=False)
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Count verdicts that changed with each entry, and propose entries to retire.

    Example: agentdistill kb stats runs/with runs/without --write kb
    """
    from agentdistill.cli.console import print_json
    from agentdistill.knowledge.folder import EntryFolder
    from agentdistill.stages.knowledge_review import note_use, use
    from agentdistill.types import to_json

    found = use(with_kb, without)
    if write is not None:
        note_use(EntryFolder(write), found.entries)
    if as_json:
        harmful = [one.entry for one in found.entries if one.harms]
        print_json({**to_json(found), "retire": harmful})
        return
    _show_use(found)


@app.command("export")
def export_(
    kb: KB,
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON Lines file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write all entries, one JSON object a line.

    Example: agentdistill kb export kb -o kb.jsonl
    """
    from agentdistill.cli.console import err
    from agentdistill.errors import UsageError
    from agentdistill.knowledge.edit import export_lines
    from agentdistill.knowledge.folder import EntryFolder
    from agentdistill.runs import write_atomic

    entries = EntryFolder(kb).entries()
    if out.exists() and not force:
        raise UsageError(f"{out} exists", "--force replaces it")
    write_atomic(out, export_lines(entries))
    err.print(f"{len(entries)} entries", markup=False)


@app.command("import")
def import_(
    kb: KB,
    file: Annotated[Path, typer.Argument(help="JSON Lines file of entries.", metavar="FILE")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the file's entry where the KB has another one.")
    ] = False,
) -> None:
    """Take entries from a file: all of them, or none if one is wrong.

    Example: agentdistill kb import kb kb.jsonl
    """
    from agentdistill.cli.console import err
    from agentdistill.knowledge.edit import import_lines
    from agentdistill.knowledge.folder import EntryFolder

    new, there = import_lines(EntryFolder(kb, create=True), file, replace=replace)
    err.print(f"{new} entries written, {there} were there")


# ---------------------------------------------------------------------- what is shown


def _checked(tasks: Any, made_of: set[str]) -> str:
    from agentdistill.knowledge.entry import question_hash

    known = made_of & {question_hash(task.question) for task in tasks}
    return f"; {len(known)} of the {len(made_of)} questions they were made from were checked for leaks"


def _tell_build(summary: BuildSummary) -> None:
    from agentdistill.cli.console import err
    from agentdistill.cli.generate import cost

    err.print(
        f"{summary.folder}: {summary.failures} failed tasks, {summary.skipped} dealt with before; "
        f"{summary.added} entries added, {summary.merged} merged; {cost(summary.usage)}",
        markup=False,
        soft_wrap=True,
    )
    for name, counts in (("in review", summary.queued), ("refused", summary.refused)):
        for reason, count in counts.items():
            err.print(f"  {count} {name}: {reason}", markup=False)
    if summary.remaining:
        err.print(f"  {summary.remaining} remain: the budget is used up", markup=False)
    if summary.parked:
        err.print(f"  {summary.parked} parked: the same command tries them again", markup=False)


def _show_use(found: UseSummary) -> None:
    from rich.table import Table

    from agentdistill.cli.console import err

    table = Table(
        title=f"{found.pairs} tasks in both runs, {found.given} given an entry", title_justify="left"
    )
    table.add_column("entry")
    for column in ("given", "wrong → right", "right → wrong", ""):
        table.add_column(column, justify="right")
    for one in found.entries:
        proposal = "retire it" if one.harms else ""
        counts = (str(one.retrieved), str(one.wrong_to_right), str(one.right_to_wrong), proposal)
        table.add_row(one.entry, *counts)
    table.add_row("all tasks", str(found.given), str(found.wrong_to_right), str(found.right_to_wrong), "")
    err.print(table)
