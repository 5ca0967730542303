"""The distillation stage on small real models, in this process."""

from __future__ import annotations

import importlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from data.schema import Problem, problem_id
from data.store import read_json, read_rows, write_attempts, write_problems
from inference.draw import attempt_seed
from inference.engine import Request, SamplingParams
from inference.transformers_engine import TransformersEngine
from tests.training.distill_runs import arguments, configured, make_teacher, run, traces
from tests.training.grpo_runs import problems
from training.agreement import measure
from training.distill import DistillConfig, make_prompter, make_trainer
from training.distill_rows import load_rows
from training.teacher import load_teacher, teacher_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teachers") / "teacher", tiny_model)


def trainer_of(student: Path, teacher: Path, folder: Path, stage: dict[str, Any], **options: Any) -> Any:
    """The stage's trainer, not yet begun."""
    config, args = configured(folder, teacher, **stage), arguments(folder, **options)
    model = ModelConfig(model_name_or_path=str(student))
    prompter = make_prompter(config, args, model)
    tokenizer = teacher_tokenizer(str(teacher), trust_remote_code=False)
    rows, held_out, _ = load_rows(config, args, model, prompter, tokenizer, folder)
    return make_trainer(config, args, model, prompter, rows, held_out)


def generated(trainer: Any) -> list[tuple[tuple[int, ...], list[int]]]:
    """Prompts and completions of the next step."""
    count = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    batch = trainer._generate_and_score_completions([{}] * count)
    return [
        (tuple(p[pm.bool()].tolist()), c[cm.bool()].tolist())
        for p, pm, c, cm in zip(
            batch["prompt_ids"],
            batch["prompt_mask"],
            batch["completion_ids"],
            batch["completion_mask"],
            strict=True,
        )
    ]


def doubles(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).double()


def log_probs(model: Any, prompt: Any, completion: Any, temperature: float, vocabulary: int) -> torch.Tensor:
    """(C, V): of every token in each completion token's place."""
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1, :vocabulary]
    return (logits / temperature).log_softmax(-1)


def divergence(ours: torch.Tensor, theirs: torch.Tensor, beta: float) -> torch.Tensor:
    """The generalised Jensen-Shannon divergence of GKD, summed over tokens; its limits are the two KLs."""
    p, q = theirs.exp(), ours.exp()
    if beta == 0:
        return (p * (theirs - ours)).sum()
    if beta == 1:
        return (q * (ours - theirs)).sum()
    mixture = (beta * p + (1 - beta) * q).log()
    return beta * (p * (theirs - mixture)).sum() + (1 - beta) * (q * (ours - mixture)).sum()


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.5, 0.7), (1.0, 1.0)])
def test_loss_and_gradient_are_those_of_the_closed_form(
    tiny_model: Path, teacher: Path, tmp_path: Path, beta: float, temperature: float
) -> None:
    """Over own and recorded completions of different lengths, mean over all tokens of a step."""
    stage = {"on_policy_fraction": 0.5}
    options = {"beta": beta, "temperature": temperature, "gradient_accumulation_steps": 2}
    trainer = trainer_of(
        tiny_model, teacher, tmp_path / "out", stage, per_device_train_batch_size=3, **options
    )
    trainer.model.train()
    rows = []
    for _ in range(2):
        inputs = trainer._prepare_inputs([{}] * 6)
        prompts, masks = inputs["prompt_ids"], inputs["prompt_mask"].bool()
        completions, ends = inputs["completion_ids"], inputs["completion_mask"].bool()
        rows += [(prompts[i][masks[i]].tolist(), completions[i][ends[i]].tolist()) for i in range(3)]
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        trainer._step += 1
    student, judge = doubles(tiny_model), doubles(teacher)
    size = student.config.vocab_size
    total = torch.zeros((), dtype=torch.float64)
    last = torch.zeros((), dtype=torch.float64)
    for place, (prompt, completion) in enumerate(rows):
        with torch.no_grad():
            theirs = log_probs(judge, prompt, completion, temperature, size)
        part = divergence(log_probs(student, prompt, completion, temperature, size), theirs, beta)
        total = total + part
        last = last + part if place >= 3 else last
    tokens = sum(len(completion) for _, completion in rows)
    (total / tokens).backward()
    assert loss.item() == pytest.approx((last / tokens).item(), rel=1e-5)
    expected = student.model.embed_tokens.weight.grad
    assert torch.allclose(
        trainer.model.model.embed_tokens.weight.grad.double(),
        expected,
        atol=1e-5 * float(expected.abs().max()),
    )


def test_the_students_completions_are_the_engines(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model, teacher, tmp_path / "out", {"rollout_batch_size": 3})
    pairs = [pair for _ in range(2) for pair in generated(trainer)]
    engine = TransformersEngine.load(str(tiny_model), dtype="float32", batch_size=4)
    ids = {row.prompt.ids: row.problem.id for row in trainer.rows}
    requests = [
        Request(
            prompt_ids=prompt,
            params=SamplingParams(max_tokens=24, temperature=1.0),
            seed=attempt_seed(1, ids[prompt], number),
        )
        for number, (prompt, _) in enumerate(pairs)
    ]
    done = dict(pair for part in engine.generate(requests) for pair in part)
    assert [done[i].token_ids for i in range(16)] == [completion for _, completion in pairs]
    assert len({tuple(completion) for _, completion in pairs}) == 16
    assert trainer.generated_tokens == sum(len(completion) for _, completion in pairs)


def test_without_own_completions_an_epoch_is_every_trace_once(
    tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    shouted = [replace(problem, question=f" {problem.question.upper()}") for problem in problems(12)]
    write_attempts(tmp_path / "traces", traces(shouted), "traces")  # the same questions by their ids
    stage = {"on_policy_fraction": 0.0, "traces": str(tmp_path / "traces")}
    trainer = trainer_of(tiny_model, teacher, tmp_path / "out", stage)
    tokenizer = trainer.prompter.tokenizer
    pairs = [pair for _ in range(3) for pair in generated(trainer)]
    wanted = [
        f"<think>\n{t.completion.thinking}\n</think>\n\n{t.completion.response}<|im_end|>"
        for t in traces(problems(12))
    ]
    assert sorted(tokenizer.decode(completion) for _, completion in pairs) == sorted(wanted)
    asked = [trainer.prompter.prompt(problem.question).ids for problem in problems(12)]
    assert sorted(prompt for prompt, _ in pairs) == sorted(asked * 2)
    assert trainer.generated_tokens == 0
    assert trainer.recorded_tokens == sum(len(completion) for _, completion in pairs)
    assert trainer._metrics["train"]["on_policy_share"] == [0, 0, 0]


def test_a_part_of_the_rows_is_the_students_own(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    trainer = trainer_of(
        tiny_model,
        teacher,
        tmp_path / "out",
        {"on_policy_fraction": 0.25, "questions": problems(100)},
        per_device_train_batch_size=200,
        max_completion_length=24,
    )
    targets = {(row.prompt.ids, row.target) for row in trainer.rows}
    own = [pair for pair in generated(trainer) if (pair[0], tuple(pair[1])) not in targets]
    assert 30 < len(own) < 70
    assert trainer.generated_tokens == sum(len(completion) for _, completion in own)


def test_agreement_is_that_of_the_closed_form(tiny_model: Path, teacher: Path) -> None:
    rows = [([5, 6, 7], [8, 9, 10, 11]), ([12], [13]), ([14, 15], [16, 17, 18])]
    student, judge = doubles(tiny_model), doubles(teacher)
    size = student.config.vocab_size
    pairs = [[log_probs(model, *row, 1.0, size) for model in (student, judge)] for row in rows]
    found = measure(student.float(), judge.float(), rows, batch_size=2)
    assert found.tokens == 8
    assert found.kl == pytest.approx(sum(divergence(a, b, 0).item() for a, b in pairs) / 8, rel=1e-5)
    assert found.reverse_kl == pytest.approx(sum(divergence(a, b, 1).item() for a, b in pairs) / 8, rel=1e-5)
    same = sum((a.argmax(-1) == b.argmax(-1)).sum().item() for a, b in pairs)
    assert found.agreement == same / 8
    itself = measure(student, student, rows)
    assert (itself.agreement, itself.kl) == (1, pytest.approx(0, abs=1e-6))


def test_a_student_comes_closer_to_its_teacher(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    held_out = [
        Problem(id=problem_id(q), question=q, answer="1") for q in ("What is 1?", "How many?", "One?")
    ]
    write_problems(tmp_path / "held_out", held_out)
    metrics = run(
        tiny_model,
        teacher,
        tmp_path / "out",
        stage={"eval_problems": str(tmp_path / "held_out")},
        max_steps=40,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=20,
        per_device_eval_batch_size=2,
    )
    assert metrics["kl_after"] < 0.85 * metrics["kl_before"]
    assert metrics["agreement_after"] > metrics["agreement_before"]
    assert metrics["loss_last"] < metrics["loss_first"]
    assert (metrics["rows"], metrics["left_out"], metrics["held_out"], metrics["steps"]) == (12, 0, 3, 40)
    assert 0 <= metrics["accuracy_after"] <= 1
    history = read_json(tmp_path / "out" / "log_history.json")
    assert [entry["step"] for entry in history if "eval_kl" in entry] == [0, 20, 40]
    drawn = [entry["generated_tokens"] for entry in history if "generated_tokens" in entry]
    assert drawn == sorted(drawn)
    assert drawn[-1] == metrics["generated_tokens"] > 40 * 8
    engine = TransformersEngine.load(str(tmp_path / "out"), dtype="float32", batch_size=2)
    assert (
        engine.model.config.vocab_size == AutoModelForCausalLM.from_pretrained(tiny_model).config.vocab_size
    )


def test_the_measures_are_of_the_student_that_is_saved(
    tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    asked = [f"How many are {i}?" for i in range(40)]
    write_problems(tmp_path / "held_out", [Problem(id=problem_id(q), question=q, answer="1") for q in asked])
    metrics = run(
        tiny_model,
        teacher,
        tmp_path / "out",
        stage={"eval_problems": str(tmp_path / "held_out")},
        max_steps=20,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        load_best_model_at_end=True,
        metric_for_best_model="reverse_kl",
        greater_is_better=True,  # the less it has learnt
    )
    history = read_json(tmp_path / "out" / "log_history.json")
    first, early, last = (entry["eval_reverse_kl"] for entry in history if "eval_reverse_kl" in entry)
    assert early > last
    assert (metrics["reverse_kl_before"], metrics["reverse_kl_after"]) == (first, early)


def test_logits_that_are_not_finite_end_the_run(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    broken, whole = (AutoModelForCausalLM.from_pretrained(teacher) for _ in range(2))
    broken.model.norm.weight.data.fill_(torch.nan)
    shutil.copytree(teacher, tmp_path / "broken")
    broken.save_pretrained(tmp_path / "broken")
    stage = {"on_policy_fraction": 0.0}
    with pytest.raises(ValueError, match=r"(?s)loss of step 1 is nan.*lower learning_rate.*teacher_dtype"):
        run(tiny_model, tmp_path / "broken", tmp_path / "out", stage=stage, max_steps=1)
    rows = [([5, 6, 7], [8, 9])]
    with pytest.raises(ValueError, match="teacher: its logits are not finite; set teacher_dtype"):
        measure(whole, broken, rows)
    with pytest.raises(ValueError, match="model_name_or_path: the student's logits are not finite; lower"):
        measure(broken, whole, rows)


def test_resumed_training_goes_on_as_if_never_stopped(
    tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    """In the second epoch, with completions of both kinds."""
    how: dict[str, Any] = {
        "stage": {"on_policy_fraction": 0.5},
        "max_steps": 8,
        "save_steps": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    }
    whole = run(tiny_model, teacher, tmp_path / "whole", **how)
    run(tiny_model, teacher, tmp_path / "parts", **how)
    (tmp_path / "parts" / "checkpoint-8" / ".complete").unlink()  # as a kill leaves it
    parts = run(tiny_model, teacher, tmp_path / "parts", **how)
    names = ("step", "loss", "grad_norm", "generated_tokens", "recorded_tokens")
    histories = [read_json(tmp_path / folder / "log_history.json") for folder in ("whole", "parts")]
    first, second = ([[e[name] for name in names] for e in h if "loss" in e] for h in histories)
    assert [step[0] for step in first] == list(range(1, 9))
    assert second == [pytest.approx(step, rel=1e-5) for step in first]
    assert parts["generated_tokens"] == whole["generated_tokens"]
    with pytest.raises(ValueError, match="problems: the checkpoint was made with other questions"):
        run(tiny_model, teacher, tmp_path / "parts", questions=problems(14), **how)


def test_what_cannot_be_trained_on_is_left_out_and_counted(
    tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    some = problems(12)
    longer = traces(some[:1])[:1]
    other = traces(problems(20)[19:])
    longer = [replace(longer[0], completion=replace(longer[0].completion, thinking="add " * 40))]
    write_attempts(tmp_path / "traces", [*traces(some[:6]), *longer, *other], "traces")
    stage = {"on_policy_fraction": 0.0, "traces": str(tmp_path / "traces"), "max_rejected_fraction": 0.1}
    metrics = run(tiny_model, teacher, tmp_path / "out", questions=some, stage=stage, max_steps=1)
    assert (metrics["rows"], metrics["left_out"]) == (12, 1 + 2 + 6)
    assert metrics["generated_tokens"] == 0
    rules = [row["rule"] for row in read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")]
    assert sorted(rules) == ["no_question"] * 2 + ["no_trace"] * 6 + ["overlong"]
    with pytest.raises(ValueError, match=r"(?s)traces: 1 of 13 cannot be used .1 overlong"):
        run(
            tiny_model,
            teacher,
            tmp_path / "o",
            questions=some,
            stage={**stage, "max_rejected_fraction": 0.0},
        )


def test_lora_trains_an_adapter(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    write_problems(tmp_path / "held_out", [Problem(id=problem_id("One?"), question="One?", answer="1")])
    loading = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}
    stage = {"eval_problems": str(tmp_path / "held_out")}
    metrics = run(
        tiny_model,
        teacher,
        tmp_path / "out",
        stage=stage,
        loading=loading,
        max_steps=3,
        learning_rate=0.05,
    )
    assert metrics["kl_after"] != metrics["kl_before"]
    assert metrics["completion_length_before"] > 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 4


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("prompt_style: few_shot is for sampling", {"prompt_style": "few_shot"}),
        ("teacher_dtype: 'int4' is not one of auto, float32", {"teacher_dtype": "int4"}),
        ("on_policy_fraction: 1.5 must be between 0 and 1", {"on_policy_fraction": 1.5}),
        ("traces: on_policy_fraction 0.5 needs the teacher's recorded", {"on_policy_fraction": 0.5}),
        ("traces: with on_policy_fraction 1 the student draws every completion; drop it", {"traces": "t"}),
        (r"max_rejected_fraction: 1 must be in \[0, 1\)", {"max_rejected_fraction": 1}),
        ("eval_limit: 0 must be at least 1", {"eval_limit": 0}),
        ("eval_limit: there are no eval_problems", {"eval_limit": 3}),
        ("teacher_top_k: a teacher in this process gives all tokens; drop it", {"teacher_top_k": 5}),
        ("teacher_dtype: the server has loaded", {"teacher_server": "http://x", "teacher_dtype": "float32"}),
    ],
)
def test_impossible_fields_are_refused(message: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(problems="p", teacher="t", **fields)


def changed(folder: Path, name: str, **tokenizer: Any) -> Path:
    """A copy of a model's folder with other fields in its tokenizer_config.json."""
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **tokenizer}))
    return copy


def test_mistakes_are_refused_before_a_model_is_loaded(
    tiny_model: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(message: str, teacher: Path = teacher, model: Path = tiny_model, **how: Any) -> None:
        with pytest.raises(ValueError, match=message):
            run(model, teacher, tmp_path / "out", **how)

    monkeypatch.setattr("training.distill.make_trainer", None)
    refuses("teacher_model_name_or_path: the stage's own keys", teacher_model_name_or_path="x")
    refuses("shuffle_dataset: rows are always drawn in a shuffled", shuffle_dataset=False)
    refuses("chat_template_kwargs: prompts are rendered by", chat_template_kwargs={"enable_thinking": True})
    refuses("max_tool_calling_iterations: this stage has no tools", max_tool_calling_iterations=2)
    refuses("repetition_penalty: only with use_vllm: true", repetition_penalty=1.1)
    refuses("temperature: 0.0 must be above 0", temperature=0.0)
    refuses("max_completion_length: None must be at least 1", max_completion_length=None)
    refuses(
        "max_completion_length: 1024 leaves no room for a prompt in the 1024 tokens of the student or the "
        "teacher; lower it",
        max_completion_length=1024,
    )
    refuses(
        "attn_implementation: documents is for packed rows.*use sdpa",
        loading={"attn_implementation": "documents"},
    )
    refuses("eval_strategy: there is nothing to measure; give eval_problems", eval_strategy="epoch")
    refuses("teacher: /absent does not exist", teacher=Path("/absent"))
    refuses("model_name_or_path: /absent does not exist", model=Path("/absent"))
    refuses("problems: 12 rows are fewer than the 16 of an optimizer step", per_device_train_batch_size=16)
    eval_rows = [Problem(id="e", question="e", answer="1", role="eval", source="sums")]
    refuses("role eval, which may not train: sums", questions=eval_rows)
    refuses("eval_problems: .* is in problems too", stage={"eval_problems": str(tmp_path / "out-problems")})
    write_attempts(tmp_path / "others", traces(problems(14)[12:]), "traces")
    refuses(
        "traces: none of the 4 is of one of the 12 questions in problems; give problems that",
        stage={"on_policy_fraction": 0.5, "traces": str(tmp_path / "others")},
    )
    long = Problem(id="x", question="long " * 3000, answer="1")
    refuses("(?s)problems: 1 of 13 cannot be used.*overlong_prompt", questions=[*problems(12), long])

    swapped = make_teacher(tmp_path / "swapped", tiny_model)
    path = swapped / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    path.write_text(json.dumps(content))
    refuses(
        "teacher: its vocabulary is not the student's .'!' is 4 of the student and 6 of the teacher; '#' is "
        "6 of the student and 4 of the teacher.*stage sample with the teacher, then stage sft",
        teacher=swapped,
    )
    ending = changed(teacher, "ending", eos_token="<|endoftext|>")
    refuses(r"eos_token: '<\|im_end\|>' of the student, '<\|endoftext\|>' of the teacher", teacher=ending)
    narrow = make_teacher(tmp_path / "narrow", tiny_model)
    config = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    refuses("teacher: its vocab_size is 100 and the student's .*resize_token_embeddings.100.", teacher=narrow)
    (swapped / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"teacher: cannot load '{swapped}'"):
        load_teacher(str(swapped), dtype="auto", trust_remote_code=False, rows=None)
    asking = changed(teacher, "asking")
    template = asking / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are Qwen", "I am Qwen"))
    refuses(
        "(?s)teacher: at token [0-9]+ the student's prompt goes on with '.*and chat template with '.*"
        "`allow_other_template: true`",
        teacher=asking,
    )
    with pytest.raises(TypeError, match="NoneType"):  # it comes to where the models are loaded
        run(tiny_model, asking, tmp_path / "out", stage={"allow_other_template": True})
    stripping = changed(tiny_model, "stripping")
    template = stripping / "chat_template.jinja"
    body = template.read_text()
    assert "message.content" in body
    template.write_text(body.replace("message.content", "message.content.split('</think>')[-1]"))
    refuses(
        "the chat template strips or changes the thinking", model=stripping, stage={"on_policy_fraction": 0.5}
    )


# ------------------------------------------------------------------ a teacher behind a server


class Answers(BaseHTTPRequestHandler):
    """What vLLM's completions endpoint says of prompts, as far as TRL's client asks for it."""

    model: Any
    max_model_len = 1024

    def do_GET(self) -> None:
        self._send({"data": [{"id": "teacher", "max_model_len": self.max_model_len}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == "teacher"
        choices = [self._prompt_logprobs(ids, asked["prompt_logprobs"]) for ids in asked["prompt"]]
        self._send({"choices": [{"prompt_logprobs": rows} for rows in choices]})

    def _prompt_logprobs(self, ids: list[int], most: int) -> list[dict[str, Any] | None]:
        with torch.no_grad():
            logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows: list[dict[str, Any] | None] = [None]
        for actual, row in zip(ids[1:], logprobs[:-1], strict=True):
            order = row.argsort(descending=True).tolist()
            told = dict.fromkeys([*order[:most], actual])
            rows.append({str(t): {"logprob": row[t].item(), "rank": order.index(t) + 1} for t in told})
        return rows

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL; TRL's client asks for an installed vLLM and then does without it."""
    importlib.import_module("training.distill_trainer")  # with TRL's modules, before vLLM seems to be there
    for module in ("trl.import_utils", "trl.generation.vllm_client"):
        monkeypatch.setattr(importlib.import_module(module), "is_vllm_available", lambda: True)
    handler = type("Teacher", (Answers,), {"model": doubles(teacher).eval()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.parametrize(("beta", "top_k"), [(0.0, 3), (1.0, 1)])
def test_a_teacher_behind_a_server(
    tiny_model: Path, teacher: Path, tmp_path: Path, server: str, beta: float, top_k: int
) -> None:
    """The first loss is the divergence over the tokens that are told of, and all others as one."""
    held_out = [Problem(id=problem_id("One?"), question="One?", answer="1")]
    write_problems(tmp_path / "held_out", held_out)
    stage = {
        "teacher_server": server,
        "teacher_top_k": top_k,
        "eval_problems": str(tmp_path / "held_out"),
    }
    metrics = run(tiny_model, teacher, tmp_path / "out", stage=stage, beta=beta, max_steps=2)
    assert "agreement_after" in metrics
    assert "kl_after" not in metrics

    trainer = trainer_of(tiny_model, teacher, tmp_path / "again", {})
    student, judge = doubles(tiny_model), doubles(teacher)
    total, tokens = 0.0, 0
    for prompt, completion in generated(trainer):
        with torch.no_grad():
            ours = log_probs(student, prompt, completion, 1.0, student.config.vocab_size)
            theirs = log_probs(judge, prompt, completion, 1.0, judge.config.vocab_size)
        for i, token in enumerate(completion):
            likely = theirs[i].topk(top_k).indices.tolist() if beta == 0 else [token]
            told = [t for t in likely if t < ours.shape[1]]  # the teacher has rows of no token
            rest = [torch.cat([x[told], (1 - x[told].exp().sum()).log()[None]]) for x in (ours[i], theirs[i])]
            total, tokens = total + divergence(rest[0], rest[1], beta).item(), tokens + 1
    assert metrics["loss_first"] == pytest.approx(total / tokens, rel=1e-3)


def test_what_a_server_cannot_do_is_refused(
    tiny_model: Path, teacher: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(message: str, top_k: int = 1, url: str = server, **options: Any) -> None:
        stage = {"teacher_server": url, "teacher_top_k": top_k}
        with pytest.raises(ValueError, match=message):
            run(tiny_model, teacher, tmp_path / "out", stage=stage, **options)

    refuses("temperature: 0.5, and vLLM gives the log-probabilities of a prompt", temperature=0.5)
    refuses("teacher_top_k: 3 with beta 0.5; .* more than 1 is for beta 0", top_k=3, beta=0.5)
    refuses("teacher_server: no server answers at http://127.0.0.1:9", url="http://127.0.0.1:9")
    monkeypatch.setattr(Answers, "max_model_len", 64)
    refuses("teacher_server: it takes 64 tokens, .* need ([0-9]+); start it with --max-model-len \\1, or")
