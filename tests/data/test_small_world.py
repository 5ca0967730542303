"""The small world: problems, true step labels, noisy texts and the tokenizer."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import problem_id
from data.small_world import (
    ENGLISH_PHRASES,
    FOREIGN_PHRASES,
    apply,
    boxed,
    build_tokenizer,
    check_steps,
    generate_problems,
    read_question,
    solve,
)
from data.small_world_texts import Noise, pretraining_texts
from data.thinking import FORMATS

PROBLEMS = generate_problems(200, seed=3, split="train", min_steps=1, max_steps=8)


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
        ("so then A47+8=55\nи тогда B55/5=11\nC11*6=66", [True, True, True]),
        ("so then A47+8=45\nWait\nafter that A47+8==55\nB55/5==12", [False, True, False]),
        ("so that A47+8=55", [False]),
        ("so then so then A47+8=55", [False]),
        ("so then \nB55/5=11", [False, False]),
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


# ------------------------------------------------------------------ tokenizer


@pytest.fixture(scope="module")
def talkative():
    return build_tokenizer(talkative=True)


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


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def test_the_plain_tokenizer_stays_as_published_models_know_it(tokenizer):
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    known = [parts["model"]["vocab"], parts["added_tokens"], parts["pre_tokenizer"]["pattern"]]
    assert digest(known) == "38146755ada6c647"


def test_a_talkative_tokenizer_adds_words_behind_the_others(tokenizer, talkative):
    plain, more = tokenizer.get_vocab(), talkative.get_vocab()
    assert plain.items() < more.items()
    added = {*more} - {*plain}
    assert min(more[token] for token in added) == len(plain)
    for phrase in (*ENGLISH_PHRASES, *FOREIGN_PHRASES):
        assert talkative.tokenize(f"{phrase}A47+8=55") == [phrase, "A", "47", "+8", "=", "55"]


TALKATIVE = Noise(spoken_share=0.8, foreign_share=0.3, mixed_share=0.3, talk_share=0.3, hint_share=0.3)


def test_talkative_texts_decode_back_to_themselves(talkative):
    for question, text in pretraining_texts(500, 1, TALKATIVE):
        ids = talkative(f"{question}\n{text}").input_ids
        assert talkative.unk_token_id not in ids
        assert talkative.decode(ids) == f"{question}\n{text}"


def test_talkative_and_plain_tokenizers_split_chains_alike(tokenizer, talkative):
    for question, text in pretraining_texts(100, 1, Noise(hint_share=0.5)):
        ids = tokenizer(question + text).input_ids
        assert talkative(question + text).input_ids == ids
        assert tokenizer.unk_token_id not in ids


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
        "import sys, data.small_world_texts; "
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
