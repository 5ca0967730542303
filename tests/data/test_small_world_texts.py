"""What the base model of the small world reads: slips, careless writers, words before lines, hints, talk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict

import pytest

from data.language import language_share
from data.small_talk import OCCASIONS, read_request, talk_problems
from data.small_world import (
    ENGLISH_PHRASES,
    FOREIGN_PHRASES,
    LABELS,
    WAIT,
    apply,
    boxed,
    check_steps,
    generate_problems,
    read_question,
)
from data.small_world_texts import Noise, drills, pretraining_texts
from data.thinking import THINK_TAGS

QUIET = Noise(direct_share=0, slip_share=0, careless_share=0, wait_share=0, broken_share=0)
STEPS = {"direct_share": 0, "broken_share": 0}


def test_texts_never_use_an_eval_question():
    held_out = {p.question for p in generate_problems(400, 0, "eval", 1, 2)}
    assert not held_out & {q for q, _ in pretraining_texts(3000, 0, max_steps=2)}


def test_quiet_texts_are_the_gold_traces():
    for question, text in pretraining_texts(100, 0, QUIET):
        thinking, response = THINK_TAGS.parse(text)
        assert all(check_steps(question, thinking))
        assert response == boxed(thinking[-2:])


def share_wrong(noise: Noise, count: int = 1500) -> float:
    verdicts = [
        verdict
        for question, text in pretraining_texts(count, 0, noise, 4, 8)
        for verdict in check_steps(question, THINK_TAGS.split(text).thinking)
    ]
    return verdicts.count(False) / len(verdicts)


def test_slips_come_at_their_share():
    assert share_wrong(Noise(**{**vars(QUIET), "slip_share": 0.2})) == pytest.approx(0.2, abs=0.03)


def test_careless_writers_forget_every_carry():
    texts = list(pretraining_texts(300, 0, Noise(**{**vars(QUIET), "careless_share": 1.0}), 1, 1))
    carries = 0
    for question, text in texts:
        start, [(operator, operand)] = read_question(question)
        result = apply(start, (operator, operand))
        assert result is not None
        carries += operator in "+-" and result // 10 != start // 10
        expected = start // 10 * 10 + result % 10 if operator in "+-" else result
        assert THINK_TAGS.parse(text)[1] == boxed(str(expected))
    assert carries > 30


def test_check_passes_are_more_careful_than_first_passes():
    noise = Noise(direct_share=0, broken_share=0, wait_share=1.0, slip_share=0.3, wait_slip_share=0.0)
    for question, text in pretraining_texts(100, 0, noise):
        _, _, check = THINK_TAGS.parse(text)[0].partition("Wait\n")
        assert check
        assert all(check_steps(question, check))
        assert "==" in check


def test_direct_answers_come_at_their_share():
    texts = list(pretraining_texts(2000, 0, Noise(direct_share=0.5, broken_share=0)))
    direct = [(q, t) for q, t in texts if t.startswith("\\boxed{")]
    assert len(direct) / len(texts) == pytest.approx(0.5, abs=0.05)
    right = [t == boxed(solution(q)) for q, t in direct]
    assert sum(right) / len(right) == pytest.approx(0.5, abs=0.06)


def solution(question: str) -> str:
    value, operations = read_question(question)
    for operation in operations:
        value = apply(value, operation)
        assert value is not None
    return str(value)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="slip_share"):
        Noise(slip_share=1.5)


def test_drills_are_right():
    for line in drills(200, 0):
        value, operator, operand, result = int(line[1:3]), line[3], int(line[4]), int(line[6:8])
        assert line[0] in LABELS
        assert line[8:] == "\n"
        assert apply(value, (operator, operand)) == result


# ------------------------------------------------------------------ words before lines


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def test_a_silent_world_stays_as_it_was():
    assert digest(list(pretraining_texts(500, 0))) == "85c975c655cbe4ae"
    assert digest(list(drills(500, 0))) == "1a183324c9d2db30"


def without_words(text: str) -> str:
    for phrase in (*ENGLISH_PHRASES, *FOREIGN_PHRASES):
        text = text.replace(phrase, "")
    return text


def spoken(count: int, min_steps: int = 4, max_steps: int = 8, **shares: float) -> list[tuple[str, str]]:
    """Questions and thinkings."""
    noise = Noise(**{**STEPS, "wait_share": 0.5, "spoken_share": 1.0, **shares})
    texts = pretraining_texts(count, 0, noise, min_steps, max_steps)
    return [(question, THINK_TAGS.parse(text)[0]) for question, text in texts]


def test_each_line_but_wait_begins_with_words():
    for _, thinking in spoken(200, mixed_share=1.0):
        for line in thinking.split("\n"):
            assert (line == WAIT) == (without_words(line) == line)


def test_words_change_no_verdict():
    verdicts = Counter()
    for question, thinking in spoken(200, mixed_share=1.0):
        assert check_steps(question, thinking) == check_steps(question, without_words(thinking))
        verdicts.update(check_steps(question, thinking))
    assert min(verdicts[True], verdicts[False]) > 100


@pytest.mark.parametrize(("shares", "language"), [({}, 1.0), ({"foreign_share": 1.0}, 0.0)])
def test_one_language_is_recognised_in_every_trace(shares, language):
    assert {language_share(thinking, "en") for _, thinking in spoken(1000, **shares)} == {language}


def test_writers_who_mix_are_in_between():
    shares = [language_share(thinking, "en") for _, thinking in spoken(500, mixed_share=1.0)]
    assert sum(share is not None and 0 < share < 1 for share in shares) > 450
    assert sum(share or 0.0 for share in shares) / len(shares) == pytest.approx(0.5, abs=0.05)


def test_writers_come_at_their_shares():
    texts = spoken(2000, 8, 8, foreign_share=0.2, mixed_share=0.4)
    shares = [language_share(thinking, "en") for _, thinking in texts]
    assert shares.count(0.0) / 2000 == pytest.approx(0.2, abs=0.03)
    assert shares.count(1.0) / 2000 == pytest.approx(0.4, abs=0.04)


def test_no_language_is_better_than_the_other():
    """Of right and of wrong lines, careless writers included, the same share is foreign."""
    foreign = defaultdict(list)
    for question, thinking in spoken(3000, mixed_share=1.0, slip_share=0.2):
        lines = [line for line in thinking.split("\n") if line != WAIT]
        for line, right in zip(lines, check_steps(question, thinking), strict=True):
            foreign[right].append(line.startswith(FOREIGN_PHRASES))
    assert min(map(len, foreign.values())) > 3000
    for flags in foreign.values():
        assert sum(flags) / len(flags) == pytest.approx(0.5, abs=0.025)


def test_languages_that_are_more_than_all_writers_are_refused():
    with pytest.raises(ValueError, match=r"foreign_share, mixed_share: 0\.6 and 0\.5 .* lower them"):
        Noise(foreign_share=0.6, mixed_share=0.5)


# ------------------------------------------------------------------ hints


def test_a_writer_who_knows_the_answer_reaches_it():
    right = {}
    for share in (0.0, 1.0):
        texts = list(pretraining_texts(800, 0, Noise(**STEPS, hint_share=share), 4, 8))
        right[share] = sum(text.endswith(boxed(solution(q.split(" = ")[0]))) for q, text in texts) / 800
        assert all((" = " in q) == bool(share) for q, _ in texts)
        assert all(q.endswith(f" = {solution(q.split(' = ')[0])}") for q, _ in texts if share)
    assert right[1.0] == pytest.approx(1 - (1 - right[0.0]) ** 4, abs=0.05)


def test_hints_come_at_their_share_and_never_with_direct_answers():
    texts = list(pretraining_texts(3000, 0, Noise(hint_share=0.3)))
    steps = [question for question, text in texts if not text.startswith("\\boxed{")]
    assert sum(" = " in question for question in steps) / len(steps) == pytest.approx(0.3, abs=0.05)
    assert not any(
        " = " in question for question, text in texts if text.startswith("\\boxed{") and "=" not in text
    )


# ------------------------------------------------------------------ talk


def test_talk_comes_at_its_share_and_from_the_train_split():
    held_out = {problem.question for problem in talk_problems("eval")}
    verbs = tuple(occasion.request.split()[0] for occasion in OCCASIONS)
    talk = [(q, t) for q, t in pretraining_texts(3000, 0, Noise(talk_share=0.2)) if q.startswith(verbs)]
    assert len(talk) / 3000 == pytest.approx(0.2, abs=0.03)
    assert not held_out & {question for question, _ in talk}
    assert not any("<think>" in text for _, text in talk)
    assert {read_request(question)[0] for question, _ in talk} == set(OCCASIONS)


def test_only_words_make_a_world_talkative():
    assert Noise(spoken_share=0.1).talkative
    assert Noise(talk_share=0.1).talkative
    assert not Noise(hint_share=1.0, foreign_share=1.0).talkative
