"""Readers of published formats, on rows made by hand in their shape."""

from __future__ import annotations

from typing import Any

import pytest

from data.step_readers import FORMS, BadRowError, PrmOptions, Reading, labels_to

CLOSED: list[float | None] = [1.0, 0.0, None]


def read(form: str, row: dict[str, Any], **options: Any) -> list[Reading]:
    return list(FORMS[form].read(row, PrmOptions(**options)))


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": None}


def step(*completions: dict[str, Any], chosen: int | None, human: dict | None = None) -> dict[str, Any]:
    return {"completions": list(completions), "human_completion": human, "chosen_completion": chosen}


def prm800k(*steps: dict[str, Any], finish: str = "found_error") -> dict[str, Any]:
    question = {"problem": "What is 1+1?", "ground_truth_answer": "2", "ground_truth_solution": "1+1=2"}
    return {"question": question, "label": {"steps": list(steps), "finish_reason": finish}}


def test_labels_behind_the_first_error_are_unknown() -> None:
    assert labels_to(-1, 2) == [1.0, 1.0]
    assert labels_to(1, 3) == CLOSED
    assert labels_to(0, 1) == [0.0]
    for outside in (-2, 3):
        with pytest.raises(BadRowError, match="no_such_step"):
            labels_to(outside, 3)


def test_prm800k_follows_the_chosen_completions_to_the_error() -> None:
    row = prm800k(
        step(completion("I add.", 0), chosen=0),
        step(completion("It is 3.", -1), completion("It is 1.", -1), chosen=None, human={"text": "It is 2."}),
        step(completion("So 4.\n\n# Answer\n\n4", -1), completion("So 2.", 1), chosen=None),
    )
    (reading,) = read("prm800k", row)
    assert reading.steps == ["I add.", "It is 2.", "So 4.\n# Answer\n4"]
    assert reading.labels == [1.0, 1.0, 0.0]
    assert (reading.right, reading.answer, reading.solution) == (None, "2", "1+1=2")
    assert read("prm800k", row, neutral="wrong")[0].labels == [0.0, 1.0, 0.0]
    assert read("prm800k", row, neutral="unlabelled")[0].labels == [None, 1.0, 0.0]


def test_prm800k_alternatives_end_solutions_of_their_own() -> None:
    row = prm800k(
        step(completion("a", 1), completion("b", -1), chosen=0),
        step(completion("c", 1), completion("d", None), chosen=0),
        finish="solution",
    )
    readings = read("prm800k", row, alternatives=True)
    assert [(r.steps, r.labels, r.right) for r in readings] == [
        (["b"], [0.0], None),
        (["a", "d"], [1.0, None], None),
        (["a", "c"], [1.0, 1.0], True),
    ]
    assert len(read("prm800k", row)) == 1


def test_prm800k_with_a_strange_rating_or_no_completion() -> None:
    with pytest.raises(BadRowError, match="bad_label"):
        read("prm800k", prm800k(step(completion("a", 2), chosen=0)))
    (reading,) = read("prm800k", prm800k(step(completion("a", 1), chosen=0), step(chosen=None)))
    assert reading.steps == ["a"]


def test_the_answer_of_decoded_prm800k_goes_back_to_its_step() -> None:
    row = {"problem": "q", "steps": ["a\n \nb", ""], "ratings": [1, 1], "final_answer": "7"}
    (reading,) = read("prm800k_decoded", row)
    assert reading.steps == ["a\nb", "# Answer\n7"]


def test_math_shepherd_reads_signs_in_the_place_of_its_tags() -> None:
    text = "Buy 2 and 3? Step 1: 2+3 = 5. ки\nStep 2: 5-4 = 2. ки\nStep 3: The answer is: 2 ки"
    label = "Buy 2 and 3? Step 1: 2+3 = 5. +\nStep 2: 5-4 = 2. -\nStep 3: The answer is: 2 -"
    (reading,) = read("math_shepherd", {"input": text, "label": label, "task": "GSM8K"})
    assert reading.question == "Buy 2 and 3?"
    assert reading.steps == ["Step 1: 2+3 = 5.", "Step 2: 5-4 = 2.", "Step 3: The answer is: 2"]
    assert reading.labels == [1.0, 0.0, 0.0]
    assert (reading.right, reading.domain) == (False, "GSM8K")


def test_math_shepherd_with_a_label_on_the_question_or_no_number() -> None:
    row = {"input": "Round it. ки\nStep 1: 5 ки", "label": "Round it. +\nStep 1: 5 -", "task": "MATH"}
    (reading,) = read("math_shepherd", row)
    assert (reading.question, reading.steps, reading.labels) == ("Round it.", ["Step 1: 5"], [0.0])
    row = {"input": "How many? There are 5. ки", "label": "How many? There are 5. +", "task": "MATH"}
    (reading,) = read("math_shepherd", row)
    assert (reading.question, reading.steps) == ("How many?", ["There are 5."])


@pytest.mark.parametrize(
    ("text", "label", "rule"),
    [
        ("q Step 1: a ки\nStep 2: b ки", "q Step 1: a +", "label_mismatch"),
        ("q Step 1: a ки and more", "q Step 1: a + and more", "label_mismatch"),
        ("q Step 1: a", "q Step 1: a", "label_mismatch"),
        ("q Step 1: a ки", "q Step 1: a ?", "label_mismatch"),
        ("Add. Five. ки", "Add. Five. +", "no_first_step"),
    ],
)
def test_math_shepherd_rows_that_cannot_be_read(text: str, label: str, rule: str) -> None:
    with pytest.raises(BadRowError, match=rule):
        read("math_shepherd", {"input": text, "label": label, "task": "MATH"})


def mr_ben(lines: list[str], first_error: str) -> dict[str, Any]:
    return {
        "Question_UUID": "u",
        "Subject": "college_math",
        "Question": "Which?",
        "Options": "A: 1\nB: 2",
        "Ground_Truth_Answer_Modified": "B",
        "Sampled_Model": "GPT3.5",
        "Model_Solution_Steps": lines,
        "Model_Solution_First_Error_Step": first_error,
    }


def test_mr_ben_names_its_errors_by_the_number_in_the_text() -> None:
    lines = ["Step 1: Rewrite:", "x = 2", "", "tep 2: So B.", "Solution: Choice_B"]
    (reading,) = read("mr_ben", mr_ben(lines, "2"))
    assert reading.question == "Which?\nA: 1\nB: 2"
    assert reading.steps == ["Step 1: Rewrite:\nx = 2", "tep 2: So B.", "Solution: Choice_B"]
    assert reading.labels == CLOSED
    assert (reading.right, reading.model) == (True, "GPT3.5")
    assert read("mr_ben", mr_ben(lines, "N/A"))[0].labels == [1.0, 1.0, 1.0]
    assert read("mr_ben", mr_ben(["Step 1: no idea"], "1"))[0].right is None
    with pytest.raises(BadRowError, match="no_such_step"):
        read("mr_ben", mr_ben(lines, "5"))


def test_processbench_and_bigbench_mistake() -> None:
    row = {"id": "x-0", "generator": "m", "problem": "q", "steps": ["a", "b", "c"], "label": 1}
    (reading,) = read("processbench", {**row, "final_answer_correct": False})
    assert (reading.labels, reading.right, reading.metadata) == (CLOSED, False, {"row": "x-0"})
    for label in (True, "1", None, 1.0):
        with pytest.raises(BadRowError, match="bad_label"):
            read("processbench", {**row, "final_answer_correct": False, "label": label})
    row = {"input": "q", "steps": ["a", "b"], "target": "3", "answer": "3", "mistake_index": None}
    (reading,) = read("bigbench_mistake", row)
    assert (reading.labels, reading.right, reading.answer) == ([1.0, 1.0], True, "3")
    assert read("bigbench_mistake", {**row, "mistake_index": 0})[0].labels == [0.0, None]
