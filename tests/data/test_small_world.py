"""The small world: problems, true step labels, noisy texts and the tokenizer."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import problem_id
from data.small_world import (
    LABELS,
    Noise,
    apply,
    boxed,
    build_tokenizer,
    check_steps,
    drills,
    generate_problems,
    pretraining_texts,
    read_question,
    solve,
)
from data.thinking import FORMATS, THINK_TAGS

PROBLEMS = generate_problems(200, seed=3, split="train", min_steps=1, max_steps=8)
QUIET = Noise(direct_share=0, slip_share=0, careless_share=0, wait_share=0, broken_share=0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_same_arguments_give_the_same_problems_and_other_seeds_give_others():
    assert generate_problems(50, 1, "train", 2, 6) == generate_problems(50, 1, "train", 2, 6)
    assert generate_problems(50, 1, "train", 2, 6) != generate_problems(50, 2, "train", 2, 6)


def test_problems_are_different_answered_and_labelled():
    assert len({p.id for p in PROBLEMS}) == len(PROBLEMS) == 200
    assert {p.domain for p in PROBLEMS} == {"sums", "products", "quotients", "mixed"}
    assert {p.level for p in PROBLEMS} == {str(n) for n in range(1, 9)}
    for problem in PROBLEMS:
        value, operations = read_question(problem.question)
        for operation in operations:
            value = apply(value, operation)
            assert value is not None
        assert problem.answer == str(value)
        assert problem.id == problem_id(problem.question)
        assert (problem.source, problem.licence, problem.role) == ("small_world", "Apache-2.0", "train")


def test_no_seed_makes_train_and_eval_share_a_question():
    splits = {
        split: {p.question for seed in range(3) for p in generate_problems(400, seed, split, 1, 2)}
        for split in ("train", "eval")
    }
    assert not splits["train"] & splits["eval"]


def test_texts_never_use_an_eval_question():
    held_out = {p.question for p in generate_problems(400, 0, "eval", 1, 2)}
    assert not held_out & {q for q, _ in pretraining_texts(3000, 0, max_steps=2)}


def test_answers_cannot_be_guessed():
    answers = [p.answer for p in generate_problems(2000, 5, "eval", 6, 8)]
    assert max(answers.count(a) for a in set(answers)) / len(answers) < 0.06


@pytest.mark.parametrize("steps", [(0, 3), (4, 3), (1, 13)])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="min_steps"):
        generate_problems(1, 0, "train", *steps)


def test_more_problems_than_there_are_is_refused():
    with pytest.raises(ValueError, match="raise max_steps"):
        generate_problems(5000, 0, "train", 1, 1)


def test_arithmetic():
    assert apply(47, ("+", 8)) == 55
    assert apply(45, ("/", 5)) is None
    assert apply(47, ("/", 5)) is None
    assert apply(60, ("/", 5)) == 12
    assert apply(12, ("-", 3)) is None
    assert apply(12, ("*", 9)) is None


def test_the_gold_trace_is_right_and_ends_with_the_answer():
    for problem in PROBLEMS:
        thinking = solve(problem)
        assert check_steps(problem.question, thinking) == [True] * int(problem.level)
        assert thinking.endswith(f"={problem.answer}")


QUESTION = "47; A+8; B/5; C*6"


@pytest.mark.parametrize(
    ("thinking", "verdicts"),
    [
        ("A47+8=55\nB55/5=11\nC11*6=66", [True, True, True]),
        ("A47+8=55\n\nB55/5=11\n", [True, True]),
        ("A47+8=45\nB45/5=10", [False, False]),
        ("A47+8=60\nB60/5=12\nC12*6=72", [False, True, True]),
        ("A47+8=55\nB56/5=11\nC11*6=66", [True, False, True]),
        ("A47+8=55\nB55-5=50\nC50*6=66", [True, False, False]),
        ("A47+8=55\nC55*6=66", [True, False]),
        ("B47/5=11", [False]),
        ("A47+8=55\nrubbish\nC55*6=66", [True, False, False]),
        ("A47+8=55\nB55/5=11\nC11*6=66\nD66+1=67\nA47+8=55", [True, True, True, False, False]),
        ("A47+8=45\nWait\nA47+8==55\nB55/5==11", [False, True, True]),
        (" A47+8=55", [False]),
        ("A47+8=055", [False]),
        ("A٤٧+٨=٥٥", [False]),  # noqa: RUF001
        ("", []),
        ("Wait", []),
    ],
)
def test_step_labels(thinking, verdicts):
    assert check_steps(QUESTION, thinking) == verdicts


def test_no_line_is_right_for_a_question_of_another_kind():
    assert check_steps("What is 47+8?", "A47+8=55") == [False]
    for question in ("47; B+8", "47", "47; A+8; A+8", "4; A+8"):
        with pytest.raises(ValueError, match="not a question"):
            read_question(question)


@given(st.text(), st.text())
def test_checking_never_raises(question, thinking):
    assert all(isinstance(v, bool) for v in check_steps(question, thinking))
    check_steps(QUESTION, thinking)


@given(st.integers(0, 199), st.integers(0, 7), st.integers(10, 99))
def test_a_changed_result_makes_its_line_wrong(index, line, result):
    problem = PROBLEMS[index]
    lines = solve(problem).split("\n")
    line %= len(lines)
    if lines[line].endswith(f"={result}"):
        return
    lines[line] = lines[line][:-2] + str(result)
    verdicts = check_steps(problem.question, "\n".join(lines))
    assert verdicts[line] is False
    assert verdicts.count(False) == (1 if line + 1 == len(lines) else 2)


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


# ------------------------------------------------------------------ tokenizer


def test_every_text_of_the_world_decodes_back_to_itself(tokenizer):
    for question, text in pretraining_texts(500, 1):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(rendered).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == rendered


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_thinking_format_decodes_back_to_itself(tokenizer, name):
    text = FORMATS[name].render("A47+8=55\nWait\nA47+8==55", boxed("55"))
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


@given(st.text(alphabet="0123456789+-*/=;ABCDEFGH \n{}", max_size=60))
def test_texts_of_known_characters_decode_back(text):
    tokenizer = build_tokenizer()
    if "{" not in text:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_unknown_characters_become_unk(tokenizer):
    ids = tokenizer("é+A").input_ids
    assert ids[0] == tokenizer.unk_token_id
    assert tokenizer.unk_token_id not in ids[1:]


def test_a_line_costs_six_tokens(tokenizer):
    assert tokenizer.tokenize("A47+8=55\n") == ["A", "47", "+8", "=", "55", "\n"]


def test_tags_and_end_are_single_tokens(tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for tag in ("<think>", "</think>", "<answer>", "</answer>", "<|im_start|>", "\\boxed{", "}", "Wait"):
        assert len(tokenizer(tag).input_ids) == 1
    assert (
        tokenizer.decode(tokenizer("<think>\n</think>").input_ids, skip_special_tokens=True)
        == "<think>\n</think>"
    )


def test_the_chat_template_separates_prompt_and_completion(tokenizer):
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    messages.append({"role": "assistant", "content": boxed("66")})
    assert tokenizer.apply_chat_template(messages, tokenize=False) == prompt + "\\boxed{66}<|im_end|>\n"
    masked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    target = [i for i, m in zip(masked["input_ids"], masked["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(target) == "\\boxed{66}<|im_end|>"


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for question, text in islice(pretraining_texts(None, 2), 50):
        assert again(question + text).input_ids == tokenizer(question + text).input_ids
        assert again.decode(again(text).input_ids) == text
    assert (again.eos_token, again.pad_token) == ("<|im_end|>", "<|pad|>")
    assert again.chat_template == tokenizer.chat_template


def test_importing_the_world_imports_no_heavy_package():
    code = (
        "import sys, data.small_world; "
        "heavy = {'torch', 'transformers', 'datasets', 'tokenizers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_global_randomness_is_left_alone():
    random.seed(0)
    expected = random.random()
    random.seed(0)
    generate_problems(20, 0, "eval")
    list(pretraining_texts(20, 0))
    assert random.random() == expected
