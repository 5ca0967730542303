"""Domains from a column, a real HTTP endpoint that fails in every way, and clusters."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.domains import TAXONOMIES, Taxonomy, cluster_questions, load_taxonomy
from data.label_domains import JOURNAL, LabelDomainsConfig, column_domain, label_domains
from data.schema import Attempt, Completion, Problem, problem_id
from data.store import read_attempts, read_problems, write_attempts, write_problems

Answer = Callable[["Endpoint", str], None]


class Endpoint(BaseHTTPRequestHandler):
    """Answers each request with its server's function."""

    server: LabelServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        question = prompt.partition("<question>\n")[2].partition("\n</question>")[0]
        with self.server.lock:
            self.server.asked.append(question)
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        self.server.answer(self, question)
        with self.server.lock:
            self.server.busy -= 1

    def reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def says(self, text: str | None) -> None:
        self.reply(200, json.dumps({"choices": [{"message": {"content": text}}]}))

    def log_message(self, *_: Any) -> None:
        pass


class LabelServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.answer: Answer = lambda endpoint, _: endpoint.says("11")
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0


@pytest.fixture
def server() -> Iterator[LabelServer]:
    with LabelServer() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def problem(question: str, **more: Any) -> Problem:
    return Problem(id=problem_id(question), question=question, answer="1", **more)


PROBLEMS = [problem(f"question {n}") for n in range(30)]


def config_for(server: LabelServer, folder: Path, **fields: Any) -> LabelDomainsConfig:
    write_problems(folder / "in", PROBLEMS)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    given: dict[str, Any] = {"concurrency": 3, "backoff_seconds": 0.01, "retries": 2, "timeout_seconds": 30.0}
    return LabelDomainsConfig(
        problems=str(folder / "in"), method="endpoint", base_url=url, model="m", **given | fields
    )


def test_failures_that_pass_are_tried_again_and_concurrency_is_bounded(
    server: LabelServer, tmp_path: Path
) -> None:
    meeting = threading.Barrier(2)

    def answer(endpoint: Endpoint, question: str) -> None:
        first = server.asked.count(question) == 1
        number = int(question.split()[1])
        if first and number < meeting.parties:
            meeting.wait(30)  # two are at work at once, however fast they are
        if first and number % 5 == 0:
            endpoint.reply(503, "busy")
        elif first and number % 5 == 1:
            endpoint.close_connection = True
        elif first and number % 5 == 2:
            endpoint.reply(200, "not JSON")
        elif first and number % 5 == 3:
            endpoint.says(None)
        else:
            endpoint.says(f"<think>05 or 11?</think>\n**{'11' if number % 2 else '60'}**")

    server.answer = answer
    metrics = label_domains(config_for(server, tmp_path), tmp_path / "out")
    assert metrics["domain_sizes"] == {"11": 15, "60": 15}
    assert (metrics["failed"], metrics["unknown"], metrics["outside_taxonomy"]) == (0, 0, 0)
    assert 1 < server.most_busy <= 3
    rows = read_problems(tmp_path / "out")
    assert [row.id for row in rows] == [row.id for row in PROBLEMS]
    assert all(row.domain == ("11" if int(row.question.split()[1]) % 2 else "60") for row in rows)


def test_answers_outside_the_taxonomy_are_unknown_and_recorded(server: LabelServer, tmp_path: Path) -> None:
    server.answer = lambda endpoint, q: endpoint.says("cooking" if q.endswith("7") else "Number theory")
    metrics = label_domains(config_for(server, tmp_path), tmp_path / "out")
    assert (metrics["unknown"], metrics["outside_taxonomy"]) == (3, 3)
    assert {p.question[-1] for p in read_problems(tmp_path / "out") if not p.domain} == {"7"}
    journal = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    assert [row["reply"] for row in journal if not row["domain"]] == ["cooking"] * 3


def test_a_stage_that_failed_goes_on_where_it_stopped(server: LabelServer, tmp_path: Path) -> None:
    def answer(endpoint: Endpoint, question: str) -> None:
        endpoint.reply(500, "") if question.endswith("4") else endpoint.says("05")

    server.answer = answer
    config = config_for(server, tmp_path)
    with pytest.raises(ValueError, match="3 of 30 problems got no reply: 3 x HTTP 500; start again"):
        label_domains(config, tmp_path / "out")
    journal = tmp_path / "out" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-5])  # a kill in the middle of the last row
    server.asked.clear()
    server.answer = lambda endpoint, _: endpoint.says("05")
    assert label_domains(config, tmp_path / "out")["domain_sizes"] == {"05": 30}
    assert len(server.asked) == 4


def test_failures_that_stay_are_counted_where_they_are_allowed(server: LabelServer, tmp_path: Path) -> None:
    server.answer = lambda endpoint, q: endpoint.reply(400, "no") if q.endswith("4") else endpoint.says("05")
    metrics = label_domains(config_for(server, tmp_path, max_failed_share=0.1), tmp_path / "out")
    assert (metrics["failed"], metrics["unknown"], metrics["outside_taxonomy"]) == (3, 3, 0)
    assert len(server.asked) == 30


def test_column_and_traces(tmp_path: Path) -> None:
    rows = [
        problem("a", level="L1", metadata={"subject": "Algebra"}),
        problem("b", metadata={"subject": "X"}),
    ]
    assert column_domain(rows[0], "level", {}) == "L1"
    write_problems(tmp_path, rows)
    completion = Completion(
        text="t",
        thinking="t",
        response="r",
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=1,
        completion_tokens=1,
        model="m",
        seed=0,
    )
    trace = Attempt(problem=rows[0], index=0, completion=completion, verdict="correct", extracted="1")
    write_attempts(tmp_path, [trace], "traces")
    config = LabelDomainsConfig(
        problems=str(tmp_path),
        traces=[str(tmp_path)],
        method="column",
        column="metadata.subject",
        mapping={"Algebra": "12"},
    )
    metrics = label_domains(config, tmp_path / "out")
    assert (metrics["domain_sizes"], metrics["unknown"]) == ({"12": 1}, 1)
    assert [row.problem.domain for row in read_attempts(tmp_path / "out", "traces")] == ["12"]
    write_problems(tmp_path, rows[1:])
    with pytest.raises(ValueError, match="1 problems of the traces are not in"):
        label_domains(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "endpoint", "base_url": "localhost"}, "base_url"),
        ({"method": "endpoint", "base_url": "http://h/v1"}, "model"),
        ({"method": "endpoint", "base_url": "http://h/v1", "model": "m", "taxonomy": "x"}, "taxonomy"),
        ({"method": "column", "column": "subject"}, "column"),
        ({"clusters": 0}, "clusters"),
        ({"retries": -1}, "retries"),
    ],
)
def test_configs_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelDomainsConfig(problems="p", **fields)


def test_msc_has_the_61_subjects_of_s1() -> None:
    codes = list(load_taxonomy("msc").titles)
    assert (len(codes), codes[0], codes[-1]) == (61, "03", "97")
    assert codes == sorted(codes)
    assert all(len(code) == 2 and code.isdigit() for code in codes)
    assert (TAXONOMIES / "msc.json").is_file()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("05", "05"),
        ("It is a count.\n\n**05**\n", "05"),
        ("05: Combinatorics", "05"),
        ("combinatorics", "05"),
        ("The code is 05.", "05"),
        ("05 or 11", None),
        ("99", None),
        ("1105", None),
        ("05\nI am sure.", None),
        ("", None),
    ],
)
def test_reading_a_reply(reply: str, code: str | None) -> None:
    assert load_taxonomy("msc").read(reply) == code


def test_a_longer_code_wins_over_a_shorter_one_inside_it() -> None:
    taxonomy = Taxonomy(name="t", titles={"algebra": "Algebra", "algebra 2": "More"})
    assert taxonomy.read("I say: Algebra 2!") == "algebra 2"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": "x", "A": "y"}', '"text"'])
def test_malformed_taxonomies_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"taxonomy: .*t\.json"):
        load_taxonomy(str(tmp_path / "t.json"))


def test_a_list_of_titles_is_a_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('["Cooking", "Chess"]')
    assert load_taxonomy(str(tmp_path / "own.json")).read("chess") == "Chess"


WORDS = {
    "triangle": ["triangle", "circle", "angle", "radius"],
    "prime": ["prime", "divisor", "integer", "remainder"],
    "dice": ["dice", "coin", "probability", "urn"],
}
QUESTIONS = [
    f"{' '.join(random.Random(n).sample(words, 3))} number {n}" for words in WORDS.values() for n in range(40)
]


def test_clusters_find_what_belongs_together_and_name_it() -> None:
    found = cluster_questions(QUESTIONS, 3, 0)
    groups = [set(found.names[start : start + 40]) for start in (0, 40, 80)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert list(found.sizes.values()) == [40, 40, 40]
    for group, words in zip(groups, WORDS.values(), strict=True):
        assert set(group.pop().split()[1:]) <= set(words)


def test_clusters_do_not_depend_on_the_order_of_the_questions() -> None:
    order = random.Random(1).sample(range(len(QUESTIONS)), len(QUESTIONS))
    names = cluster_questions(QUESTIONS, 5, 3).names
    assert cluster_questions([QUESTIONS[i] for i in order], 5, 3).names == [names[i] for i in order]


def test_questions_without_a_known_word_have_no_cluster_and_too_many_clusters_are_refused() -> None:
    assert cluster_questions([*QUESTIONS, "1 + 1 = ?"], 3, 0).names[-1] == ""
    with pytest.raises(ValueError, match="500 are asked for, 120 of 120"):
        cluster_questions(QUESTIONS, 500, 0)
    with pytest.raises(ValueError, match="share no words"):
        cluster_questions(["1", "2"], 1, 0)


@pytest.mark.slow
def test_clusters_of_real_questions_agree_with_their_subjects(shared_data: Callable[[str], Path]) -> None:
    from sklearn.metrics import adjusted_mutual_info_score

    rows = [json.loads(line) for line in shared_data("math/test.jsonl").read_text().splitlines()]
    names = cluster_questions([row["problem"] for row in rows], 20, 0).names
    assert adjusted_mutual_info_score([row["type"] for row in rows], names) > 0.15
