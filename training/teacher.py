"""The teacher of a distillation run: is it one for this student, and its weights.

The divergence compares two distributions over tokens by their ids, so that both models must mean the same by
an id, and the teacher must be asked as it was trained to be asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from data.prompts import Prompter
from inference.models import load_model, load_tokenizer, locate

logger = logging.getLogger(__name__)

SHOWN = 3
"""Differences that an error lists."""
PROMPTS = 100
"""Questions whose prompts are compared."""


def teacher_tokenizer(teacher: str, *, trust_remote_code: bool) -> Any:
    """The teacher's tokenizer.

    Raises:
        ValueError: the folder is incomplete or nowhere to be found.
    """
    with _named_teacher():
        return load_tokenizer(teacher, trust_remote_code=trust_remote_code)


@contextmanager
def _named_teacher() -> Iterator[None]:
    """Errors of loading name the key `teacher`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("model_name_or_path:", "teacher:", 1)) from error


def check_vocabulary(student: Any, teacher: Any) -> None:
    """Refuse two tokenizers that do not have the same tokens, ids, begin and end tokens.

    Raises:
        ValueError: lists the first differences.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    differences = []
    for token in sorted(ours.keys() | theirs.keys(), key=lambda t: (ours.get(t, theirs.get(t)), t)):
        if ours.get(token) != theirs.get(token):
            known = [
                f"{ids[token]} of the {whose}" if token in ids else f"unknown to the {whose}"
                for whose, ids in (("student", ours), ("teacher", theirs))
            ]
            differences.append(f"{token!r} is {' and '.join(known)}")
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(
            f"teacher: its vocabulary is not the student's ({'; '.join(differences[:SHOWN])}{more}), and the "
            "divergence compares token by token; take a teacher of the same tokenizer, or go by texts: stage "
            "sample with the teacher, then stage sft on its traces (logits across vocabularies, as by TRL's "
            "GOLD, are not offered)"
        )
    for key in ("eos_token", "bos_token"):
        if getattr(student, key) != getattr(teacher, key):
            fix = (
                "set `eos_token:` to the teacher's, or take a teacher that ends as the student does"
                if key == "eos_token"
                else "set it in the student's tokenizer_config.json to the teacher's"
            )
            raise ValueError(
                f"{key}: {getattr(student, key)!r} of the student, {getattr(teacher, key)!r} of the teacher; "
                f"{fix}"
            )


def check_output_rows(student: str, teacher: str) -> None:
    """Refuse a student whose output has more rows than the teacher's, by their config.json.

    Models of one tokenizer may have rows that no token uses, to fill up to a round number, and not equally
    many: what the teacher has more is cut (`load_teacher`).

    Raises:
        ValueError: names both sizes.
    """
    ours, theirs = output_rows(student), output_rows(teacher)
    if ours is not None and theirs is not None and ours > theirs:
        raise ValueError(
            f"teacher: its vocab_size is {theirs} and the student's {ours}; cut the student's unused rows "
            f"first: model.resize_token_embeddings({theirs})"
        )


def output_rows(model: str) -> int | None:
    """vocab_size by a model's config.json; None where there is none, as of an adapter."""
    from transformers import PretrainedConfig

    try:
        values, _ = PretrainedConfig.get_config_dict(locate(model))
    except OSError:
        return None
    return values.get("text_config", values).get("vocab_size")


def check_template(prompter: Prompter, teacher: Any, questions: Sequence[str], *, allow_other: bool) -> None:
    """Refuse a teacher whose own chat template makes other prompts of the questions.

    Args:
        teacher: its tokenizer.
        allow_other: only warn.
    Raises:
        ValueError: shows where the first prompt differs.
    """
    own = replace(prompter, tokenizer=teacher)
    for question in questions[:PROMPTS]:
        ours, theirs = prompter.prompt(question), own.prompt(question)
        if ours.ids == theirs.ids:
            continue
        pairs = zip(ours.ids, theirs.ids, strict=False)
        shorter = min(len(ours.ids), len(theirs.ids))
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
        shown = [teacher.decode(ids[place : place + 12]) for ids in (ours.ids, theirs.ids)]
        found = (
            f"at token {place} the student's prompt goes on with {shown[0]!r} "
            f"({list(ours.ids[place:][:4])}..) and by the teacher's tokenizer and chat template with "
            f"{shown[1]!r} ({list(theirs.ids[place:][:4])}..)"
        )
        if not allow_other:
            raise ValueError(
                f"teacher: {found}; it would judge a prompt that it does not know; give the student the "
                "teacher's tokenizer.json and chat template, or set `allow_other_template: true`"
            )
        logger.warning("teacher: %s", found)
        return


def load_teacher(teacher: str, *, dtype: str, trust_remote_code: bool, rows: int | None) -> Any:
    """The teacher's model, frozen, with as many output rows as the student's.

    Args:
        dtype: auto is what it is stored in.
        rows: output rows of the student; None: as many as the teacher has.
    Raises:
        ValueError: its weights cannot be loaded.
    """
    with _named_teacher():
        model = load_model(teacher, dtype=dtype, trust_remote_code=trust_remote_code)
    if rows is not None and model.config.get_text_config().vocab_size > rows:
        model.resize_token_embeddings(rows)
    return model.requires_grad_(False)
