"""The chains of thought of a RUN made with first thoughts as a RUN of their own: data of CoT distillation.

    python experiments/chains.py RUN OUT [PROMPT]

A first thought is cut from a chain of thought that answers the same task; the chain is stored beside it, so
CoT and agent students learn from the same teacher and tasks and nothing is drawn twice. OUT is what
`eval --mode cot` would have made with that seed and COT_TOKENS new tokens; seconds and tokens are left out,
since RUN has counted them. PROMPT is the prompt file that RUN was made with (default: the teacher's).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from agentdistill.agent.build import chain_of_thought_prompt
from agentdistill.agent.first_thought import COT_TOKENS
from agentdistill.grading.extract import final_answer
from agentdistill.prompts import Prompts, load_prompts
from agentdistill.runs import RunWriter, attempt_id, read_run_json, read_trajectories
from agentdistill.types import FirstThought, Message, Step, StopReason, Usage


def main(run: Path, out: Path, prompts: Prompts) -> None:
    made = read_run_json(run)["shape"]
    if made["first_thought"] == "off":
        raise SystemExit(f"{run} has no chains of thought: it was made with --first-thought off")
    shape = {
        "model": made["model"],
        "mode": "cot",
        "prompts": made["prompts"],
        "sampling": {**made["sampling"], "max_tokens": COT_TOKENS},
        "retriever": None,
    }
    with RunWriter(out, stage="eval", shape=shape, asked={"chains_of": run.name}) as writer:
        for stored in read_trajectories(run):
            chain = stored.first_thought.cot
            key = attempt_id(stored.task, stored.sample, shape)
            if not chain or key in writer.finished:
                continue
            answer = final_answer(chain) or None
            writer.append(
                replace(
                    stored,
                    id=key,
                    messages=(
                        Message(role="system", content=chain_of_thought_prompt(prompts)),
                        Message(role="user", content=prompts.question(stored.task)),
                        Message(role="assistant", content=chain),
                    ),
                    steps=(Step(thought=chain, code=None, observation=""),),
                    answer=answer,
                    stop_reason=StopReason.FINAL_ANSWER if answer else StopReason.MAX_STEPS,
                    first_thought=FirstThought(),
                    usage=Usage(),
                )
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), load_prompts(sys.argv[3] if len(sys.argv) > 3 else "teacher"))
