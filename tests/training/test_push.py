"""What would be uploaded: the model and how it was made, and nothing that says where."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from data.recipe import load_pipeline
from data.run_folder import RunFolder, plan
from data.store import read_json, write_json
from training.local_names import LocalNames, local_names
from training.model_card import line
from training.push import PushConfig, push

HOST = "gpu-node-17"
HOSTILE = "a\n---\nlicense: stolen\n---\n# | <script>`x`</script> {{ 7 * 7 }}"


@pytest.fixture
def runs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of a pipeline: collect, sft (with what training leaves behind), two evaluations."""
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "home" / "alice" / "runs"))
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.cluster.internal")
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setenv("USER", "alice")
    questions = tmp_path / "home" / "alice" / "questions.jsonl"
    questions.parent.mkdir(parents=True)
    questions.write_text("{}\n")
    evaluate = {"stage": "evaluate", "model_name_or_path": "run:02_sft", "temperature": 1.0}
    recipes: dict[str, dict[str, Any]] = {
        "01_collect": {
            "stage": "collect",
            "sources": [
                {"id": "gsm8k", "split": "train"},
                {"path": str(questions), "licence": "CC-BY-4.0", "role": "train"},
            ],
            "seed": 5,
        },
        "02_sft": {
            "stage": "sft",
            "launch": {"config": "zero3", "main_process_ip": "10.1.2.3"},
            "dataset": "run:01_collect",
            "model_name_or_path": "owner/base-7b",
            "system_prompt": HOSTILE,
            "hub_token": "hf_verysecret",
            "seed": 7,
        },
        "03_evaluate": {**evaluate, "engine_options": {"base_url": f"http://{HOST}:8000/v1"}},
        "04_evaluate_prm": {"stage": "evaluate_prm", "scorer_model": "run:02_sft"},
    }
    folder = tmp_path / "pipe"
    folder.mkdir()
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    metrics: dict[str, dict[str, Any]] = {
        "02_sft": {
            "loss_last": 0.5,
            "note": f"seen on {HOST} by alice in /home/alice/x y/z.log",
            HOSTILE: HOSTILE,
        },
        "03_evaluate": {
            "chains pass@1": 0.5,
            "benchmarks": {HOSTILE: {"pass@1": {"mean": 0.5, "low": 0.4, "high": 0.6, "problems": 200}}},
        },
        "04_evaluate_prm": {"f1": 0.25},
    }
    for recipe in load_pipeline(folder):
        stage = RunFolder(recipe, plan(recipe))
        if recipe.name == "02_sft":
            shutil.copytree(tiny_model, stage.path, dirs_exist_ok=True)
            config = read_json(stage.path / "config.json")
            write_json(stage.path / "config.json", {**config, "_name_or_path": "/home/alice/models/base-7b"})
            for left in (
                "training_args.bin",
                "log.txt",
                "checkpoint-1/optimizer.pt",
                "rejected/rows.parquet",
            ):
                (stage.path / left).parent.mkdir(exist_ok=True)
                (stage.path / left).write_text(f"alice {HOST}")
        stage.finish(metrics.get(recipe.name, {}), 1.0)
    return tmp_path / "home" / "alice" / "runs" / "pipe"


def config(runs: Path, **options: Any) -> PushConfig:
    evaluations = [str(runs / name) for name in ("03_evaluate", "04_evaluate_prm")]
    defaults: dict[str, Any] = {"model": str(runs / "02_sft"), "evaluations": evaluations}
    return PushConfig(repo_id="someone/reasoner", **{**defaults, **options})


def test_what_is_uploaded(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = push(config(runs), tmp_path / "push")
    upload = tmp_path / "push" / "upload"
    files = {path.relative_to(upload).as_posix() for path in upload.rglob("*") if path.is_file()}
    names = ("01_collect", "02_sft", "03_evaluate", "04_evaluate_prm")
    assert files == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *(f"recipes/{name}.yaml" for name in names),
        *(f"manifests/{name}.json" for name in names),
        *(f"metrics/{name}.json" for name in names[1:]),
    }
    assert metrics == {
        "files": len(files),
        "bytes": sum((upload / name).stat().st_size for name in files),
        "stages": 4,
        "pushed": False,
    }
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown
    assert "nothing was uploaded" in shown
    AutoModelForCausalLM.from_pretrained(upload)
    assert yaml.safe_load((upload / "recipes/02_sft.yaml").read_text())["dataset"] == "run:01_collect"


def test_a_reward_model_is_said_to_be_one(runs: Path, tmp_path: Path) -> None:
    readme = tmp_path / "push" / "upload" / "README.md"
    push(config(runs), tmp_path / "push")
    assert ModelCard.load(readme).data["pipeline_tag"] == "text-generation"
    write_json(runs / "02_sft" / "reward_model.json", {"kind": "pairwise"})
    push(config(runs), tmp_path / "push")
    assert ModelCard.load(readme).data["pipeline_tag"] == "text-classification"


def test_code_that_a_model_needs_goes_with_it(runs: Path, tmp_path: Path) -> None:
    for name in ("modeling_own.py", "scratch.py"):
        (runs / "02_sft" / name).write_text("x = 1\n")
    push(config(runs), tmp_path / "push")
    assert [path.name for path in (tmp_path / "push" / "upload").glob("*.py")] == ["modeling_own.py"]


def test_nothing_says_where_it_was_made(runs: Path, tmp_path: Path) -> None:
    push(config(runs), tmp_path / "push")
    for path in (tmp_path / "push" / "upload").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors" and path.name != "tokenizer.json":
            text = path.read_text(encoding="utf-8")
            for leak in (
                HOST,
                "alice",
                "/home",
                str(tmp_path),
                "10.1.2.3",
                "hf_verysecret",
                "cluster.internal",
            ):
                assert leak not in text, (path.name, leak)
    kept = yaml.safe_load((tmp_path / "push/upload/recipes/01_collect.yaml").read_text())
    assert kept["sources"][1]["path"] == "questions.jsonl", "what the file was is still said"
    assert read_json(tmp_path / "push/upload/config.json")["_name_or_path"] == "base-7b"


def test_the_card(runs: Path, tmp_path: Path) -> None:
    push(config(runs, licence="apache-2.0"), tmp_path / "push")
    path = tmp_path / "push" / "upload" / "README.md"
    card, text = ModelCard.load(path), path.read_text(encoding="utf-8")
    known = card.data.to_dict()
    assert known["base_model"] == ["owner/base-7b"]
    assert known["datasets"] == ["openai/gsm8k"]
    assert known["license"] == "apache-2.0"
    assert set(known["tags"]) == {"slowthink", "reasoning", "sft"}
    sections = [row for row in text.splitlines() if row.startswith("#")]
    assert sections == [
        "# reasoner",
        *(f"## {s}" for s in ("How it was made", "Data", "Numbers", "Commands", "Limits")),
    ]
    assert "0.500 (0.400 to 0.600) | 200 | temperature 1.0 |" in text
    assert "| 04\\_evaluate\\_prm | run:02\\_sft | f1 0.25 |" in text
    assert "| questions.jsonl |  | CC-BY-4.0 |" in text
    assert "| gsm8k | openai/gsm8k | MIT |" in text
    assert "- Numbers of another model" not in text
    chain = [row for row in text.splitlines() if row.startswith(("| 01", "| 02"))]
    assert "| collect | " in chain[0]
    assert "| 5 |" in chain[0]
    assert "| sft | run:01\\_collect | 7 |" in chain[1]
    commit = read_json(runs / "02_sft" / "manifest.json")["git"]["commit"]
    assert commit is None or commit[:12] in chain[1]


def test_numbers_of_another_model_are_said_to_be_so(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "02_sft", runs / "05_sft")
    manifest = read_json(runs / "05_sft" / "manifest.json")
    write_json(runs / "05_sft" / "manifest.json", {**manifest, "name": "05_sft"})
    push(config(runs, model=str(runs / "05_sft")), tmp_path / "push")
    text = (tmp_path / "push" / "upload" / "README.md").read_text(encoding="utf-8")
    assert "- Numbers of another model than run:05\\_sft are of one" in text


@pytest.mark.parametrize(
    ("base", "shown", "on_hub"),
    [
        ("gpt2", "gpt2", ["gpt2"]),
        ("/home/alice/models/base-7b", "base-7b", None),
        ("alice/base-7b", "alice/base-7b", ["alice/base-7b"]),
        (None, None, None),
    ],
)
def test_what_the_weights_began_with(
    runs: Path, tmp_path: Path, base: str | None, shown: str | None, on_hub: list[str] | None
) -> None:
    manifest = read_json(runs / "02_sft" / "manifest.json")
    manifest["recipe"]["model_name_or_path"] = base
    manifest["recipe"]["preferences"] = [{"id": "alice/pairs", "role": "train"}]
    write_json(runs / "02_sft" / "manifest.json", manifest)
    push(config(runs), tmp_path / "push")
    card = ModelCard.load(tmp_path / "push" / "upload" / "README.md")
    assert card.data.to_dict().get("base_model") == on_hub
    assert ("began with " + shown if shown else "weights began at random") in card.text
    assert card.data["datasets"] == ["alice/pairs", "openai/gsm8k"]


def test_hostile_text_cannot_leave_its_place(runs: Path, tmp_path: Path) -> None:
    manifest = read_json(runs / "02_sft" / "manifest.json")
    manifest["recipe"]["model_name_or_path"] = f"owner/base{HOSTILE}"
    write_json(runs / "02_sft" / "manifest.json", manifest)
    push(config(runs), tmp_path / "push")
    text = (tmp_path / "push" / "upload" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert "license" not in head
    assert head["library_name"] == "transformers"
    assert ModelCard.load(tmp_path / "push" / "upload" / "README.md").data.to_dict() == head
    assert "<script>" not in text.split("\n---\n", 1)[1]
    assert "{{ 7" in text, "no template is rendered"
    assert line("a\n| b") == "a \\| b"


def test_an_adapter_is_said_to_be_one(runs: Path, tmp_path: Path) -> None:
    stage = runs / "02_sft"
    (stage / "config.json").unlink()
    (stage / "model.safetensors").rename(stage / "adapter_model.safetensors")
    write_json(
        stage / "adapter_config.json", {"base_model_name_or_path": "/home/alice/models/base-7b", "r": 4}
    )
    push(config(runs), tmp_path / "push")
    upload = tmp_path / "push" / "upload"
    assert read_json(upload / "adapter_config.json") == {"base_model_name_or_path": "base-7b", "r": 4}
    assert ModelCard.load(upload / "README.md").data["library_name"] == "peft"


def test_a_real_push_needs_a_token_and_a_network(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match=r"no token.*hf auth login.*HF_TOKEN"):
        push(config(runs, dry_run=False), tmp_path / "push")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE; unset it|the hub cannot be reached.*hf upload"):
        push(config(runs, dry_run=False), tmp_path / "push")


class Hub(BaseHTTPRequestHandler):
    """What of the hub's HTTP interface an upload of small files needs."""

    private = True
    files: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            files = type(self).files.items()
            self.answer([{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in files])
            return
        self.answer({"id": "someone/reasoner", "private": type(self).private, "siblings": []})

    def do_POST(self) -> None:
        body = self.body()
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "no right to write"}, 403)
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/create"):
            self.answer({"url": "https://huggingface.co/someone/reasoner"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            self.answer({"files": modes})
        else:
            rows = [json.loads(row) for row in body.splitlines()]
            for row in rows:
                if row["key"] == "file":
                    type(self).files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "deletedFile":
                    del type(self).files[row["value"]["path"]]
            self.answer({"commitUrl": "https://huggingface.co/someone/reasoner/commit/1", "commitOid": "1"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Hub.private = True
    Hub.files.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_real_push_uploads_the_folder(
    runs: Path, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(config(runs, dry_run=False), tmp_path / "push")["pushed"] is True
    upload = tmp_path / "push" / "upload"
    written = {p.relative_to(upload).as_posix(): p.read_bytes() for p in upload.rglob("*") if p.is_file()}
    assert hub.files == written
    hub.private = False
    hub.files.clear()
    with pytest.raises(ValueError, match="private: someone/reasoner is there and public"):
        push(config(runs, dry_run=False), tmp_path / "push")
    hub.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"repo_id: the hub refuses someone/reasoner .*token that may write"):
        push(config(runs, dry_run=False), tmp_path / "push")
    assert not hub.files


def test_an_earlier_model_in_the_repository_goes(runs: Path, hub: type[Hub], tmp_path: Path) -> None:
    old = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_config.json")
    hub.files.update(dict.fromkeys((*old, "model.safetensors", "figures/mine.png", "mine.gguf"), b"old"))
    push(config(runs, dry_run=False), tmp_path / "push")
    assert not hub.files.keys() & set(old)
    assert hub.files["model.safetensors"] != b"old"
    assert hub.files["figures/mine.png"] == hub.files["mine.gguf"] == b"old"


def test_what_cannot_be_pushed(runs: Path, tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="repo_id: 'reasoner' must be owner/name"):
        PushConfig(model="x", repo_id="reasoner")
    with pytest.raises(ValueError, match=r"repo_id: .*a b"):
        PushConfig(model="x", repo_id="a b/c")
    with pytest.raises(
        ValueError, match=r"model: .* has no manifest.json; give the folder of a finished stage"
    ):
        push(config(runs, model=str(tiny_model)), tmp_path / "push")
    with pytest.raises(ValueError, match=r"model: .*01_collect holds no model"):
        push(config(runs, model=str(runs / "01_collect")), tmp_path / "push")
    manifest = read_json(runs / "03_evaluate" / "manifest.json")
    write_json(runs / "03_evaluate" / "manifest.json", {**manifest, "status": "failed"})
    with pytest.raises(ValueError, match=r"evaluations: .*03_evaluate is failed"):
        push(config(runs), tmp_path / "push")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice", "<path>"),
        ("/home/alice/models/Qwen2.5-7B", "Qwen2.5-7B"),
        ("/mnt/alice smith/data/q.jsonl", "q.jsonl"),
        ("~/alice/q.jsonl", "q.jsonl"),
        ("../../alice/q.jsonl", "q.jsonl"),
        ("see file:///home/alice/log.txt and 'C:\\Users\\alice\\x.log'", "see log.txt and 'x.log'"),
        ("http://alice:pw@10.0.0.1:8000/v1", "http://<host>/v1"),
        ("https://huggingface.co/owner/name", "https://huggingface.co/owner/name"),
        ("owner/base-7b, 1/2, a / b, </think>, and/or", "owner/base-7b, 1/2, a / b, </think>, and/or"),
        ("runs/quickstart/05_sft", "run:05_sft"),
        ("malice by alice on node-9.lan", "malice by <name> on <name>"),
        ("at 10.20.30.40", "at <address>"),
        ("read:/home/bob/secret/x.json", "read:x.json"),
        ("s3://bucket/set/x.json", "s3://bucket/set/x.json"),
        ("token hf_abcdefABCDEF1234567890abcdefabcd", "token <removed>"),
        ("/v1?key=sk-proj-0123456789abcdef", "/v1?key=<removed>"),
        ("hf_transfer and sk-learn", "hf_transfer and sk-learn"),
    ],
)
def test_local_names_are_hidden(text: str, shown: str) -> None:
    names = LocalNames(frozenset({"alice", "node-9.lan"}), {"runs/quickstart/05_sft": "run:05_sft"})
    assert names.hide_text(text) == shown


def test_values_of_secret_keys_are_removed() -> None:
    secret = {"token": "x", "hub_token": "x", "Authorization": "Bearer x", "judge_api_key": "x"}
    plain = {"eos_token": "</s>", "tokens": "9", "api_key_env": "OPENAI_API_KEY", "hub_token": None}
    names = LocalNames(frozenset(), {})
    assert set(names.hide({"model_init_kwargs": secret})["model_init_kwargs"].values()) == {"<removed>"}
    assert names.hide(plain) == plain


def test_names_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-9.lan")
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    assert local_names(["far-1.example"], {}).names == {"node-9.lan", "node-9", "far-1.example", "far-1"}
