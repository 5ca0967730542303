"""Mistakes are refused before the model is loaded, with the key and the fix."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig

from data.prompts import Prompter
from data.schema import Problem, problem_id
from data.store import write_problems
from data.thinking import THINK_TAGS
from rewards.registry import build_rewards
from tests.training.grpo_runs import problems, reward, run
from training.grpo import GrpoConfig
from training.grpo_arguments import check_arguments
from training.grpo_questions import check_domains, columns, usable
from training.preflight import check_processes, check_training, context_tokens
from training.servers import check_server


def boom(**columns: Any) -> list[float]:
    raise ZeroDivisionError("no luck")


def short(*, completions: Any, **columns: Any) -> list[float]:
    return [0.0]


def not_a_number(*, completions: Any, **columns: Any) -> list[float]:
    return [float("nan") for _ in completions]


def here(function: Any) -> dict[str, Any]:
    return {**reward(function), "function": f"{__name__}:{function.__name__}"}


def write(folder: Path, rows: list[Problem]) -> str:
    write_problems(folder, rows)
    return str(folder)


@pytest.mark.slow
def test_mistakes_of_a_run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(message: str, *, loads: bool = False, **options: Any) -> None:
        with monkeypatch.context() as patch:
            if not loads:
                patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
                patch.setattr("transformers.Qwen2ForCausalLM.from_pretrained", None)
            with pytest.raises(ValueError, match=message):
                run(options.pop("model", tiny_model), tmp_path / "out", **options)

    refuses(
        r"problems: 12 questions are fewer than the 20 of one generation",
        num_generations=2,
        per_device_train_batch_size=40,
    )
    eval_rows = [replace(problem, role="eval") for problem in problems()]
    refuses("role eval, which may not train: sums", questions=eval_rows)
    golds = [replace(p, answer="" if i < 3 else p.answer) for i, p in enumerate(problems())]
    refuses(
        "(?s)problems: 3 of 12 cannot be used .3 unjudgeable.; mend them or leave them out, or raise "
        "max_rejected_fraction=0.0; the first:.*accuracy: answer: no gold answer",
        rewards=["accuracy"],
        questions=golds,
    )
    long = Problem(id="x", question="long " * 3000, answer="1")
    refuses("(?s)1 of 13 cannot be used.*overlong_prompt", questions=[*problems(), long])
    refuses("reward_weights: give each entry", reward_weights=[1.0])
    refuses(
        "use_transformers_continuous_batching: it turns the weights",
        use_transformers_continuous_batching=True,
    )
    refuses("shuffle_dataset: `curriculum:` says in which order", shuffle_dataset=False)
    refuses("chat_template_kwargs: prompts are rendered by", chat_template_kwargs={"enable_thinking": False})
    refuses("log_completions: .* in rollouts/ .*`slowthink show STAGE --rollouts`", log_completions=True)
    refuses("fp16: .* use `bf16: true`, or `bf16: false` for float32", fp16=True)
    refuses(
        "a generation serves 2 micro-batches and an optimizer step has 4 .*set steps_per_generation to 4",
        steps_per_generation=1,
        num_iterations=2,
        gradient_accumulation_steps=4,
    )
    refuses("min_p: only with use_vllm", min_p=0.1)
    refuses("repetition_penalty: only with use_vllm", repetition_penalty=1.1)
    refuses("generation_kwargs: only with use_vllm", generation_kwargs={"num_beams": 2})
    refuses("eval_problems: .* is in problems too", stage={"eval_problems": str(tmp_path / "out-problems")})
    unread = [Problem(id="e", question="e", answer="")]
    refuses(
        "(?s)eval_problems: 1 of 1 cannot be used .1 unjudgeable.; mend them or leave them out; the first",
        rewards=["accuracy"],
        stage={"eval_problems": write(tmp_path / "unread", unread)},
    )
    refuses("eval_problems: there is nothing in it", stage={"eval_problems": write(tmp_path / "none", [])})
    refuses("model_name_or_path: /absent does not exist", model=Path("/absent"))
    refuses(
        "vllm_server_base_url: no vLLM server answers at http://127.0.0.1:9",
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url="http://127.0.0.1:9",
        vllm_server_timeout=0.1,
    )
    refuses("'boom' raised ZeroDivisionError: no luck", rewards=[here(boom)], loads=True)
    refuses("'short' returned 1 values for 16 completions", rewards=[here(short)], loads=True)
    refuses("'not_a_number' returned nan for the completion", rewards=[here(not_a_number)], loads=True)


@pytest.mark.slow
def test_base_models(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"direct needs a chat template.*use `prompt_style: r1_zero`"):
        run(base, tmp_path / "out")
    assert run(base, tmp_path / "out", stage={"prompt_style": "r1_zero"}, max_steps=1)["steps"] == 1

    config.pop("eos_token")
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the tokenizer has no end token.*set `eos_token:`"):
        run(base, tmp_path / "endless", stage={"prompt_style": "r1_zero"})
    stage = {"prompt_style": "r1_zero", "eos_token": "<|endoftext|>"}
    assert run(base, tmp_path / "ending", stage=stage, max_steps=1)["steps"] == 1
    with pytest.raises(ValueError, match="eos_token: '<none>' is not in the tokenizer's vocabulary"):
        run(base, tmp_path / "unknown", stage={**stage, "eos_token": "<none>"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rewards": ["acuracy"]}, "no reward is called 'acuracy'; did you mean 'accuracy'"),
        ({"rewards": [{"name": "accuracy", "golds": "x"}]}, "unknown key 'golds'; did you mean 'gold'"),
        ({"rewards": [{"function": "nowhere:f"}]}, "cannot import 'nowhere'"),
        ({"rewards": []}, "must be a list with at least one entry"),
        ({"dynamic_sampling": -1}, "dynamic_sampling: -1 must not be negative"),
        ({"patience": 0}, "patience: 0 must be at least 1"),
        ({"rollout_batch_size": 0}, "rollout_batch_size: 0 must be at least 1"),
        ({"max_rejected_fraction": 1.0}, r"max_rejected_fraction: 1.0 must be in \[0, 1\)"),
        ({"prompt_style": "few_shot"}, "few_shot is for sampling and evaluation"),
        ({"thinking_format": "tags"}, "thinking_format: 'tags' is not one of"),
        ({"limit": 0}, "limit: 0 must be at least 1"),
        ({"language": "xx"}, "language: 'xx' is not one of"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrpoConfig(problems="p", **fields)


def test_context_is_that_of_the_model_and_of_vllm(tiny_model: Path, tmp_path: Path) -> None:
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    assert context_tokens(str(tiny_model), args) == 2048
    args.use_vllm, args.vllm_max_model_length = True, 1024
    assert context_tokens(str(tiny_model), args) == 1024
    assert context_tokens("no-such/model-on-any-hub", args) is None


def test_groups_that_processes_share_are_no_place_for_kimi_length(tmp_path: Path) -> None:
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, num_generations=8)
    rewards = build_rewards(["kimi_length"])
    check_arguments(args, rewards)
    args.per_device_train_batch_size = 4  # as in a launch of two processes
    with pytest.raises(ValueError, match="kimi_length compares the completions of a group"):
        check_arguments(args, rewards)
    check_arguments(args, build_rewards(["accuracy"]))


def test_questions_are_asked_for_by_the_rewards_of_their_domain(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS)
    rows = [
        Problem(id="m", question="1 + 1?", answer="2", domain="math"),
        Problem(id="bad", question="2 + 2?", answer="", domain="math"),
        Problem(id="t", question="Say hello.", answer="", domain="talk"),
        Problem(id="p", question="Write a poem.", answer="", domain="poetry"),
    ]
    rewards = build_rewards(
        [{"name": "accuracy", "domains": ["math"]}, {"name": "format", "domains": ["talk"]}]
    )
    check_domains(rows, rewards)
    kept, bad = usable(rows, prompter, rewards, longest_prompt=100)
    assert [question.problem.id for question in kept] == ["m", "t"]
    assert [(row.id, row.rule) for row in bad] == [("bad", "unjudgeable"), ("p", "no_reward")]
    assert "no entry of `rewards:` applies to the domain 'poetry'" in bad[1].evidence
    wrong = build_rewards([{"name": "accuracy", "domains": ["math", "tlak"]}])
    with pytest.raises(ValueError, match="accuracy: domains: no question has the domain 'tlak'; did you"):
        check_domains(rows, wrong)
    with pytest.raises(ValueError, match=r"has the domain 'math'; none has any: .* stage label_domains"):
        check_domains(problems(), rewards)


def test_metadata_reaches_rewards_and_hides_nothing() -> None:
    problem = Problem(
        id="i", question="q", answer="a", metadata={"tests": [1], "answer": "other", "prompts": "x", "n": 2}
    )
    row = columns(problem)
    assert row["tests"] == [1]
    assert row["answer"] == "a"
    assert "prompts" not in row
    assert problem_id("q") != row["id"] == "i"


def test_processes_that_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    check_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started and each sees 1"):
        check_processes(args)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("save_only_model", "save_only_model: .* optimizer"),
        ("enable_jit_checkpoint", "enable_jit_checkpoint: remove it"),
        ("resume_from_checkpoint", "resume_from_checkpoint: .* goes on"),
    ],
)
def test_keys_with_which_a_killed_run_would_not_go_on(key: str, message: str, tmp_path: Path) -> None:
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    check_training(args)
    setattr(args, key, True)
    with pytest.raises(ValueError, match=message):
        check_training(args)


class Server(http.server.BaseHTTPRequestHandler):
    """Ill for the first two questions."""

    asked = 0

    def do_GET(self) -> None:
        Server.asked += 1
        self.send_response(200 if Server.asked > 2 and self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def slow_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_is_still_starting_is_waited_for(
    slow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("training.servers.time.sleep", waits.append)
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, use_vllm=True, vllm_mode="server")
    args.vllm_server_base_url = slow_server
    check_server(args)
    assert Server.asked == 3
    assert len(waits) == 2
