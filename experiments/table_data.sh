#!/usr/bin/env bash
# The training data of the third or fourth configuration from the packed RUNs: OUT/data-agent, OUT/data-first (agent
# with first thoughts) and OUT/data-cot. The fourth is the third and what table-4 adds.
#   bash experiments/table_data.sh OUT GSM8K_DEV 3|4    (OUT is a new folder; agentdistill's environment is active)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tests=$(realpath "$2")
case $3 in 3 | 4) configuration=$3 ;; *) echo "configuration 3 or 4, not '$3'" >&2; exit 2 ;; esac
mkdir "$1"
cd "$1"

unpack() { # RUN NAME
    mkdir "$2"
    cp "$1/run.json" "$2"
    xz -dkc "$1/trajectories.jsonl.xz" >"$2/trajectories.jsonl"
}

python "$here/bbh_prompts.py" prompts
for run in "$here"/table-3/train-off.*; do unpack "$run" "agent.${run##*.}"; done
for run in "$here"/table-3/train-cot.*; do unpack "$run" "chains.${run##*.}"; done
for run in "$here"/table-3/train-content.*; do unpack "$run" "content.${run##*.}"; done
for subset in date_understanding navigate; do
    python "$here/chains.py" "content.$subset" "chains.$subset" "prompts/$subset.yaml"
done

unpack "$here/first-thought/gsm8k-off" agent.gsm8k-1
unpack "$here/first-thought-2/gsm8k-off" agent.gsm8k-2
unpack "$here/first-thought/hotpotqa-off" agent.hotpotqa
unpack "$here/first-thought-2/families-off" agent.families
unpack "$here/first-thought/gsm8k-content" all.gsm8k
unpack "$here/first-thought-2/families-content" all.families
python "$here/same_tasks.py" all.gsm8k content.gsm8k-1 agent.gsm8k-1
python "$here/same_tasks.py" all.families content.families agent.families
unpack "$here/first-thought-2/gsm8k-content" content.gsm8k-2
unpack "$here/first-thought/hotpotqa-content" content.hotpotqa
for run in gsm8k-1 gsm8k-2 families hotpotqa; do python "$here/chains.py" "content.$run" "chains.$run"; done

if [ "$configuration" = 4 ]; then
    for arm in off:agent content:content cot:chains; do
        for run in "$here"/table-4/train-"${arm%:*}".*; do
            [ ! -d "$run" ] || unpack "$run" "${arm#*:}.4-${run##*.}"
        done
    done
fi

for run in agent.* content.* chains.*; do
    agentdistill grade "$run" --json >/dev/null 2>&1 || { echo "not graded: agentdistill grade $PWD/$run" >&2; exit 1; }
done
agentdistill curate content.* -o data-first --test "$tests"
agentdistill curate agent.* -o data-agent --test "$tests"
agentdistill curate chains.* -o data-cot --test "$tests"
