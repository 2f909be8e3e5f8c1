#!/usr/bin/env bash
# The fourth configuration from its packed trajectories: three students, every row of the table, the table itself.
#   AGENTDISTILL_DATA=FOLDER bash experiments/table_rows.sh WORK [OPTIONS OF EVAL]
# Everything is a RUN, a checkpoint or a file in WORK: stopped, the same command goes on. About ten hours of one
# core, nearly half of them training. TEACHER is a model (a file of it by its whole path); the default runs in
# process and needs no server.
# `--limit N` cuts each RUN, so the teacher, who has one for each subset, is tested on other tasks then.
# The knowledge base is the packed one; how it was made is in README.md, table-4.
set -euo pipefail
: "${1:?WORK, the folder to work in, is missing}" "${AGENTDISTILL_DATA:?the folder of the benchmarks is not named}"
here=$(cd "$(dirname "$0")" && pwd)
teacher=${TEACHER:-qwen2.5-coder-1.5b}
AGENTDISTILL_DATA=$(realpath "$AGENTDISTILL_DATA")
export AGENTDISTILL_DATA
mkdir -p "$1"
cd "$1"
shift
options=("$@")

made() { # FOLDER COMMAND: the command makes FOLDER.part, which is FOLDER once it is whole
    [ ! -d "$1" ] || return 0
    rm -rf "$1.part"
    "${@:2}"
    mv "$1.part" "$1"
}
made tasks python "$here/table_tasks.py" tasks.part 4
made prompts python "$here/bbh_prompts.py" prompts.part
made data bash "$here/table_data.sh" data.part "$AGENTDISTILL_DATA/gsm8k_dev.jsonl" 4
made passages agentdistill index build "$AGENTDISTILL_DATA/passages.jsonl" -o passages.part --no-dense
grep -v '"id": "bbh/' tasks/test.jsonl >tasks/test_rest.jsonl
grep -v '"id": "bbh/' tasks/test_cot.jsonl >tasks/test_cot_rest.jsonl

student() { # NAME DATA OPTIONS
    name=$1 data=$2
    shift 2
    [ -f "$name/model-q8_0.gguf" ] || agentdistill train "data/$data" -o "$name" --student smollm2-135m --preset quick \
        --threads 1 --micro-batch 4 --precision bfloat16 "$@"
}
student student-agent data-agent --epochs 2
student student-first data-first --epochs 2.375
student student-cot data-cot --epochs 4.44 --max-length 2048 # lookup's rows have a table in the question

row() { # NAME TASKS OPTIONS
    run=$1 tasks=$2
    shift 2
    agentdistill eval "$tasks" -o "rows/$run" --threads 1 --concurrency 4 "$@" "${options[@]}"
}
agent() { # NAME OPTIONS: a student with tools, and with search where there is something to look up
    name=$1
    shift
    row "$name" tasks/test.jsonl --max-steps 3 --max-tokens 256 "$@"
    row "$name.qa" tasks/test_qa.jsonl --max-steps 3 --max-tokens 256 --retriever passages "$@"
}
chain() { # NAME OPTIONS
    name=$1
    shift
    row "$name" tasks/test_cot.jsonl --mode cot --max-tokens 512 "$@"
    row "$name.qa" tasks/test_qa.jsonl --mode cot --max-tokens 512 "$@"
}
chain cot-prompt --model smollm2-135m
chain cot-distill --model student-cot
agent agent-prompt --model smollm2-135m
agent agent-distill --model student-agent
agent first-thought --model student-first
agent candidates-8 --model student-agent --candidates 8
agent both --model student-first --candidates 8
agent agent-knowledge --model student-agent --kb "$here/table-4/kb"

# The controls: the same student, with a random entry or filler on the tasks that got an entry.
python - <<'END'
from pathlib import Path
from agentdistill.runs import read_trajectories
from agentdistill.tasks.load import write_tasks
made = read_trajectories(Path("rows/agent-knowledge"))
tasks = [attempt.task for attempt in made if attempt.knowledge and attempt.knowledge.entries]
write_tasks(Path("tasks/test_kb.jsonl"), sorted(tasks, key=lambda task: task.id))
END
for choice in random filler; do
    row "knowledge-$choice" tasks/test_kb.jsonl --max-steps 3 --max-tokens 256 --model student-agent \
        --kb "$here/table-4/kb" --kb-choice "$choice"
done

# The teacher, with the prompts that it made the training data with.
for prompt in prompts/*.yaml; do
    subset=$(basename "$prompt" .yaml)
    row "teacher-agent.$subset" "tasks/test.jsonl@family=$subset" --model "$teacher" --prompt "$prompt" \
        --max-steps 2 --max-tokens 256
    row "teacher-cot.$subset" "tasks/test_cot.jsonl@family=$subset" --model "$teacher" --prompt "$prompt" \
        --mode cot --max-tokens 512
done
row teacher-agent.rest tasks/test_rest.jsonl --model "$teacher" --prompt teacher --max-steps 3 --max-tokens 256
row teacher-agent.qa tasks/test_qa.jsonl --model "$teacher" --prompt teacher --max-steps 3 --max-tokens 256 \
    --retriever passages
row teacher-cot.rest tasks/test_cot_rest.jsonl --model "$teacher" --prompt teacher --mode cot --max-tokens 512
row teacher-cot.qa tasks/test_qa.jsonl --model "$teacher" --prompt teacher --mode cot --max-tokens 512

python "$here/table.py" rows
