"""What the stages after generation cost by the attempt: time, and memory that grows with the RUN.

    python benchmarks/run_size.py [--attempts 20000] [--student FOLDER_OR_GGUF]

A RUN of made-up attempts (benchmarks/inspect_run.py: 2.5 steps, 6 KB a line, six of ten right) is opened as
`generate` opens it to resume, curated, made into token ids as `train` does in each of its processes (with
--student), and graded. Each figure is of a process of its own that has done the same with a tenth of the
attempts before the clock, so that imports and the tokenizer are not in it. Memory is how far the peak rose
above what was resident then (Linux). The file is in the page cache.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from inspect_run import make, measured

REOPEN = """
from agentdistill.runs import RunWriter
def work(run):
    with RunWriter(run, stage="generate", shape={}, asked={}) as writer:
        return writer
"""

GRADE = """
from agentdistill.stages.grade import grade
def work(run):
    return grade(run)
"""

CURATE = """
from agentdistill import load_prompts
from agentdistill.stages.curate import curate
def work(run):
    curate([run], run.parent / f"data-{run.name}", load_prompts("student"))
"""

ENCODE = """
from agentdistill.stages.train import prepare
def work(run):
    return prepare(run.parent / f"data-{run.name}", Path(STUDENT), 10_240)
"""

AROUND = """
from pathlib import Path
FOLDERS = sorted(Path(sys.argv[1]).glob("run-*"), key=lambda run: int(run.name[4:]))
%s
def memory(what):
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0]) / 1024
first = work(FOLDERS[0])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
began, before = time.process_time(), memory("VmRSS")
second = work(FOLDERS[1])
done["seconds"], done["MB"] = time.process_time() - began, memory("VmHWM") - before
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attempts", type=int, default=20_000)
    parser.add_argument("--student", type=Path, help="whose tokenizer makes the token ids")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for attempts in (asked.attempts // 10, asked.attempts):
            make(folder / f"run-{attempts}", attempts)
        programs = {"reopen": REOPEN, "curate": CURATE}
        if asked.student:
            programs["token ids"] = f"STUDENT = {str(asked.student)!r}\n{ENCODE}"
        programs["grade"] = GRADE  # last: its verdicts on made-up answers would leave curate without rows
        thousands = asked.attempts / 1000
        print(f"by 1,000 attempts, of {asked.attempts:,}")
        for what, program in programs.items():
            found = measured(AROUND % program, folder, folder / "cache")
            seconds, grown = found["seconds"] / thousands, found["MB"] / thousands
            print(f"{what:10} {seconds:7.3f} s of CPU   {grown:7.2f} MB")


if __name__ == "__main__":
    main()
