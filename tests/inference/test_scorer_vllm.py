"""Scorer `vllm`: against an HTTP server that answers as vLLM's /pooling does, and against vLLM itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from inference.models import load_tokenizer
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.reward_model import save_options
from tests.inference.servers import vllm_server
from tests.inference.test_scorer_foreign import QUESTION, STEPS, qwen_recipe, save_qwen_prm
from tests.inference.test_scorers import QUESTIONS, make_reward_model, reference, same

SOLUTIONS = [["1 + 2", "3"], ["1 + 2"], [], ["7", "8", "9"]]
ASKED = [QUESTIONS[0], QUESTIONS[0], QUESTIONS[1], QUESTIONS[1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reward = make_reward_model()
    reward.model.save_pretrained(tmp_path)
    reward.tokenizer.save_pretrained(tmp_path)
    save_options(tmp_path, reward.options)
    return tmp_path


class Pooling(ThreadingHTTPServer):
    """Says the softmax of the reward model at every token; what it does first can be changed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reward = make_reward_model()
        self.asked: list[dict[str, Any]] = []
        self.first: list[tuple[int, Any]] = []
        """Statuses and answers that are given before it works."""
        self.change: Callable[[list[list[float]]], Any] = lambda rows: rows

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def say(self, ids: list[int]) -> Any:
        with torch.no_grad():
            logits = self.reward.model(torch.tensor([ids])).logits[0]
        return self.change(logits.softmax(-1).tolist())


class Handler(BaseHTTPRequestHandler):
    server: Pooling

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "tiny", "max_model_len": 512}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/pooling"
        self.server.asked.append(body)
        if self.server.first:
            self.reply(*self.server.first.pop(0))
        else:
            self.reply(200, {"data": [{"index": 0, "data": self.server.say(body["input"])}]})

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Pooling]:
    with Pooling() as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def options(server: Pooling, folder: Path, **more: Any) -> ScorerOptions:
    chosen = {"base_url": server.url, "tokenizer": str(folder), **more}
    return ScorerOptions(scorer_model="tiny", scorer="vllm", scorer_options=chosen)


def test_scores_are_those_of_the_served_model(server: Pooling, folder: Path) -> None:
    scorer = load_scorer(options(server, folder))
    same(scorer.score(ASKED, SOLUTIONS), reference(server.reward, ASKED, SOLUTIONS))
    sent = {tuple(body["input"]) for body in server.asked}
    assert len(server.asked) == len(sent) == 2  # one solution begins another, and one has no steps
    assert {body["model"] for body in server.asked} == {"tiny"}
    assert scorer.forwarded_tokens == sum(len(ids) for ids in sent)


def test_only_steps_may_be_answered(server: Pooling, folder: Path) -> None:
    ends = server.reward.step_format.encode(ASKED[0], SOLUTIONS[0]).ends
    server.change = lambda rows: [rows[end][1:] for end in ends]  # as step_tag_id, one class alone
    found = load_scorer(options(server, folder)).score(ASKED[:1], SOLUTIONS[:1])
    same(found, reference(server.reward, ASKED[:1], SOLUTIONS[:1]))


def test_failures_of_the_server_are_asked_again(
    server: Pooling, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.openai_client.BACKOFF_SECONDS", 0.001)
    server.first = [(503, {}), (429, {}), (200, {"data": []}), (200, []), (500, {})]
    found = load_scorer(options(server, folder)).score(ASKED[:1], SOLUTIONS[:1])
    same(found, reference(server.reward, ASKED[:1], SOLUTIONS[:1]))
    assert len(server.asked) == 6
    server.first = [(500, {})] * 3
    with pytest.raises(ConnectionError, match=r"/pooling: HTTP 500; given up after retries: 1"):
        load_scorer(options(server, folder, retries=1)).score(ASKED[:1], SOLUTIONS[:1])


def test_answers_that_are_no_probabilities(server: Pooling, folder: Path) -> None:
    scorer = load_scorer(options(server, folder))
    server.change = lambda rows: rows[:1]
    with pytest.raises(ValueError, match=r"says 1 numbers of \d+ tokens with 2 steps; serve it with"):
        scorer.score(ASKED[:1], SOLUTIONS[:1])
    server.change = lambda rows: [[5.0, -2.0]] * len(rows)
    with pytest.raises(ValueError, match=r"says \[5\.0, -2\.0\], which is no probability"):
        scorer.score(ASKED[:1], SOLUTIONS[:1])
    server.first = [(400, {"error": "too long"})]
    with pytest.raises(ValueError, match=r"answers HTTP 400: .*too long"):
        scorer.score(ASKED[:1], SOLUTIONS[:1])
    with pytest.raises(ValueError, match="solution 1: a step has no text"):
        scorer.score(ASKED[:2], [["1"], [" "]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_uri": "x"}, "scorer_options: scorer vllm has no 'base_uri'; did you mean 'base_url'"),
        ({"format": "other"}, "scorer_options: format: there is no 'other'; give slowthink, qwen_prm"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str, server: Pooling, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_scorer(options(server, folder, **wrong))


def test_other_models_and_missing_options(server: Pooling, folder: Path) -> None:
    chosen = {"base_url": server.url, "tokenizer": str(folder)}
    with pytest.raises(ValueError, match=r"scorer_model: .* has no 'other'; it has tiny"):
        load_scorer(ScorerOptions(scorer_model="other", scorer="vllm", scorer_options=chosen))
    del chosen["base_url"]
    with pytest.raises(ValueError, match="scorer_options: base_url is missing; scorer vllm needs it"):
        load_scorer(ScorerOptions(scorer_model="tiny", scorer="vllm", scorer_options=chosen))


@pytest.mark.vllm
@pytest.mark.slow
def test_qwen_prm_in_vllm(tokenizer: Any, tmp_path: Path) -> None:
    folder = save_qwen_prm(tokenizer, tmp_path / "model")
    tag: Any = load_tokenizer(str(folder)).convert_tokens_to_ids("<extra_0>")
    server = vllm_server(folder, tmp_path)
    server.command += ["--runner", "pooling", "--pooler-config", json.dumps({"step_tag_id": tag})]
    with server:
        chosen = {"base_url": server.url, "tokenizer": str(folder)}
        scorer = load_scorer(ScorerOptions(scorer_model="tiny", scorer="vllm", scorer_options=chosen))
        for _ in range(2):  # the second time from the server's own cache of prefixes
            found = scorer.score([QUESTION] * 2, [STEPS, STEPS[:1]])
            assert found[0] == pytest.approx(qwen_recipe(folder, QUESTION, STEPS), abs=1e-4)
            assert found[1] == found[0][:1]
