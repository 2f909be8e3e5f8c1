"""DATA in, CHECKPOINT out, by the stage and by the command line; merging, model cards and the hub."""

import base64
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from students import CONVERSATIONS, tiny_student
from typer.testing import CliRunner

from agentdistill.cli.main import app
from agentdistill.errors import ConfigError, TrainingError, UsageError
from agentdistill.models.spec import CHECKPOINT_GGUF, open_model
from agentdistill.stages.pairs import pair_up, write_pairs
from agentdistill.stages.publish import push, write_card
from agentdistill.stages.train import prepare, split_off, train
from agentdistill.training.base import load_model
from agentdistill.training.merge import merge
from agentdistill.training.sft import SftConfig, read_record
from agentdistill.types import Sampling

SETTINGS = SftConfig(
    lora_r=4, lora_alpha=8, lora_dropout=0.0, learning_rate=1e-2, epochs=2, batch_size=2, max_length=512
)
SHAPE = {"model": {"engine": "llama.cpp", "file": "teacher.gguf"}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six rows of three tasks, and a pair for each of two."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": f"t{n // 2}#{n}", "task": f"t{n // 2}", "run": "teacher", "messages": messages}
        for n, (_, messages) in enumerate(CONVERSATIONS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {"run": "teacher", "attempts": 8, "kept": 6, "shape": SHAPE}
    record = {"rows": 6, "rejected": {"wrong answer": 2}, "runs": [run], "prompts": "system: s\n"}
    (folder / "data.json").write_text(json.dumps(record))
    end = {"role": "assistant", "content": "Thought: No idea.\n<code>\nfinal_answer(0)\n</code>"}
    wrong = [{**rows[n], "id": f"w{n}", "messages": [*rows[n]["messages"][:2], end]} for n in (0, 2)]
    write_pairs(folder, pair_up(rows, wrong))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("checkpoints") / "student"
    train(data, out, str(tiny), SETTINGS, validation=0.3)
    return out


def test_a_checkpoint_has_an_export_a_report_and_its_origin(checkpoint):
    record = read_record(checkpoint)
    assert (record["rows"], record["validation_rows"]) == (4, 2)
    assert record["provenance"]["data"]["runs"][0]["kept"] == 6
    page = (checkpoint / "report.html").read_text()
    assert "validation loss" in page and "learning rate" in page and "<script" not in page
    model = open_model(str(checkpoint), sampling=Sampling(max_tokens=4), slots=1, context=512)
    try:
        assert model.fingerprint()["file"] == CHECKPOINT_GGUF
        assert model.sample(CONVERSATIONS[0][1][:2])[0].tokens_out > 0
    finally:
        model.close()


def test_validation_tasks_are_never_trained_on(data, tiny):
    prepared = prepare(data, tiny, 512)
    for seed in range(5):
        rows, looked_at = split_off(prepared, 0.3, seed)
        tasks = [{prepared.tasks[row.id] for row in part} for part in (rows, looked_at)]
        assert len(tasks[0]) == 2 and len(tasks[1]) == 1 and not tasks[0] & tasks[1]
        assert (rows, looked_at) == split_off(prepared, 0.3, seed)
    with pytest.raises(TrainingError, match="3 tasks are too few"):
        split_off(prepared, 0.99, 0)


def test_redi_goes_on_from_a_trained_student(data, checkpoint, tmp_path):
    config = replace(SETTINGS, objective="redi", learning_rate=1e-4, epochs=1)
    result = train(data, tmp_path / "out", str(checkpoint), config)
    record = read_record(tmp_path / "out")
    assert result.steps == 1 and record["rows"] == 4
    assert record["provenance"]["student"] == str(checkpoint)


def test_redi_without_pairs_says_what_to_do(tiny, data, tmp_path):
    for name in ("rows.jsonl", "data.json"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    with pytest.raises(TrainingError, match=r"no pairs .*--samples 4"):
        train(tmp_path, tmp_path / "out", str(tiny), replace(SETTINGS, objective="redi"))


def test_pairs_are_of_one_task_and_use_an_attempt_once():
    def row(name, task):
        return {"id": name, "task": task, "run": "r", "messages": []}

    right = [row("a", "t0"), row("b", "t0"), row("c", "t1"), row("d", "t2")]
    wrong = [row("x", "t0"), row("y", "t2"), row("z", "t2")]
    pairs = pair_up(right, wrong)
    assert [(p["task"], p["chosen"]["id"], p["rejected"]["id"]) for p in pairs] == [
        ("t0", "a", "x"),
        ("t2", "d", "y"),
    ]


def test_the_command_line_shows_rows_and_trains(data, tiny, tmp_path):
    run = CliRunner()
    call = ["train", str(data), "-o", str(tmp_path / "out"), "--student", str(tiny)]
    shown = run.invoke(app, [*call, "--preview", "--max-length", "200", "--split-long"])
    assert shown.exit_code == 0, shown.output
    assert "tokens are trained" in shown.output and "split at a step" in shown.output
    assert not (tmp_path / "out").exists()
    more = [
        "--objective",
        "masked-thought",
        "--method",
        "full",
        "--epochs",
        "1",
        "--validation",
        "0.3",
        "--json",
    ]
    done = run.invoke(app, [*call, *more, "--json"])
    assert done.exit_code == 0, done.output
    record = read_record(tmp_path / "out")
    assert (record["config"]["objective"], record["config"]["method"]) == ("masked-thought", "full")
    wrong = run.invoke(app, [*call, "--objective", "dpo"])
    assert isinstance(wrong.exception, ConfigError) and "objective" in str(wrong.exception)


# --- merging ------------------------------------------------------------------------------------------


def test_a_merge_is_the_weighted_average(tmp_path):
    folders = [tiny_student(tmp_path / str(seed), "qwen2", "qwen2", seed=seed) for seed in range(3)]
    out = merge(folders, [0.1, 0.45, 0.45], tmp_path / "merged")
    parts = [dict(load_model(folder, torch.float32).named_parameters()) for folder in folders]
    for name, weight in load_model(out, torch.float32).named_parameters():
        expected = 0.1 * parts[0][name] + 0.45 * parts[1][name] + 0.45 * parts[2][name]
        assert torch.allclose(weight, expected, atol=1e-6), name
    assert [source["weight"] for source in json.loads((out / "merge.json").read_text())] == [0.1, 0.45, 0.45]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "merged"]


def test_a_merge_that_makes_no_sense_is_refused(tiny, tmp_path):
    other = tiny_student(tmp_path / "wide", hidden=64)
    words = tiny_student(tmp_path / "words", vocabulary=330)
    for models, weights, reason in [
        ([tiny], [1.0], "1 models and 1 weights"),
        ([tiny, tiny], [0.5, 0.6], "sum to 1.1"),
        ([tiny, other], [0.5, 0.5], "different shapes"),
        ([tiny, words], [0.5, 0.5], "different vocabularies"),
    ]:
        with pytest.raises((UsageError, TrainingError), match=reason):
            merge(models, weights, tmp_path / "out")
    with pytest.raises(UsageError, match="is there already"):
        merge([tiny, tiny], [0.5, 0.5], other)
    done = CliRunner().invoke(app, ["models", "merge", str(tiny), str(tiny), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0 and (tmp_path / "out/model.safetensors").is_file()


# --- card and hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """As much of the hub as an upload of small files needs: what was committed is in `files`."""
    files, status = {}, [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.endswith("/repos/create"):
                reply = {"url": f"{address}/me/student"}
            elif "/preupload/" in self.path:
                named = [entry["path"] for entry in json.loads(body)["files"]]
                reply = {
                    "files": [
                        {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named
                    ]
                }
            elif self.path.endswith("/validate-yaml"):
                reply = {"errors": [], "warnings": []}
            else:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                reply = {"commitUrl": f"{address}/me/student/commit/1", "commitOid": "1", "success": True}
            self.answer(reply)

        def do_GET(self):
            self.answer({"id": "me/student", "siblings": [], "sha": "0"})

        def answer(self, reply):
            text = json.dumps(reply).encode()
            self.send_response(status[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_args): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield SimpleNamespace(files=files, status=status)
        server.shutdown()
        thread.join()


def test_a_card_says_what_made_the_student(checkpoint):
    text = write_card(checkpoint, (), "apache-2.0").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "teacher.gguf" in text and "6 of 8 attempts kept" in text
    assert "learning_rate: 0.01" in text and "None were given." in text


def test_a_checkpoint_goes_to_the_hub(checkpoint, hub):
    write_card(checkpoint, (), "apache-2.0")
    assert push(checkpoint, "me/student").endswith("/me/student/commit/1")
    assert {"README.md", "config.json", "model.safetensors", CHECKPOINT_GGUF, "training.json"} <= set(
        hub.files
    )
    assert hub.files["README.md"] == (checkpoint / "README.md").read_bytes()
    assert not [name for name in hub.files if ".state" in name]


def test_a_hub_that_refuses_is_one_clear_line(checkpoint, hub):
    hub.status[0] = 403
    with pytest.raises(TrainingError, match="the hub did not take me/student") as caught:
        push(checkpoint, "me/student")
    assert "\n" not in str(caught.value) and "hf auth login" in str(caught.value)
