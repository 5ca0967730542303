"""What of trl.DistillationConfig stage `distill` cannot do, or would ignore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from training.preflight import context_tokens
from training.refused_keys import ENGINE_LACKS, TEMPLATE, refuse

if TYPE_CHECKING:
    from trl import DistillationConfig, ModelConfig

TeacherDtype = Literal["auto", "float32", "bfloat16", "float16"]

TEACHER = "the stage's own keys are `teacher:` and `teacher_dtype:`; drop it"
REFUSED = {
    "teacher_model_name_or_path": TEACHER,
    "teacher_model_revision": "download that revision and give its folder as `teacher:`",
    "teacher_model_init_kwargs": TEACHER,
    "shuffle_dataset": "rows are always drawn in a shuffled order; drop it",
    "chat_template_kwargs": TEMPLATE,
    "max_tool_calling_iterations": "this stage has no tools; drop it",
    "eval_on_start": "the untrained student is measured anyway; drop it",
}
"""Keys that must have their default, and what to do instead."""


def check_arguments(args: DistillationConfig, model: ModelConfig, *, held_out: bool) -> None:
    """Refuse settings that this stage does not have, or that would train something else.

    Args:
        held_out: whether there are questions to measure.
    Raises:
        ValueError: names the key and the fix.
    """
    refuse(args, REFUSED)
    if not args.use_vllm:
        refuse(args, ENGINE_LACKS)
    if args.max_completion_length is None or args.max_completion_length < 1:
        raise ValueError(f"max_completion_length: {args.max_completion_length} must be at least 1")
    if args.temperature <= 0:
        raise ValueError(
            f"temperature: {args.temperature} must be above 0: both distributions are divided by it"
        )
    if model.attn_implementation == "documents":
        raise ValueError(
            "attn_implementation: documents is for packed rows, and this stage pads; use sdpa, or "
            "flash_attention_2 on a GPU"
        )
    if args.eval_strategy != "no" and not held_out:
        raise ValueError("eval_strategy: there is nothing to measure; give eval_problems or drop it")
    if args.load_best_model_at_end and args.metric_for_best_model in (None, "loss", "eval_loss"):
        raise ValueError(
            "metric_for_best_model: held-out questions have no loss; use agreement (greater_is_better: true) "
            "or kl (greater_is_better: false)"
        )


def longest_prompt(args: DistillationConfig, *models: str) -> int:
    """Tokens that the models have positions for, before the longest completion.

    Raises:
        ValueError: there are none.
    """
    lengths = [context_tokens(name, args) for name in models]
    context = min((length for length in lengths if length), default=1 << 30)
    longest = int(args.max_completion_length or 0)
    if longest >= context:
        raise ValueError(
            f"max_completion_length: {longest} leaves no room for a prompt in the {context} tokens of the "
            "student or the teacher; lower it"
        )
    return context - longest


def check_teacher_server(url: str | None, args: DistillationConfig, top_k: int, longest_prompt: int) -> None:
    """Refuse what a teacher behind a server cannot do, and set what TRL's trainer reads of it.

    Args:
        longest_prompt: tokens of the longest prompt that it will be asked.
    Raises:
        ValueError: names the key and the fix.
    """
    import httpx
    from trl.import_utils import is_vllm_available

    if url is None:
        return
    if args.temperature != 1:
        raise ValueError(
            f"temperature: {args.temperature}, and vLLM gives the log-probabilities of a prompt at "
            "temperature 1 alone; set 1 with teacher_server"
        )
    if args.beta > 0 and top_k > 1:
        raise ValueError(
            f"teacher_top_k: {top_k} with beta {args.beta}; a server's most likely tokens are not the "
            "student's, so that more than 1 is for beta 0"
        )
    if not is_vllm_available():
        raise ValueError("teacher_server: TRL's client needs vLLM here too; pip install 'slowthink[vllm]'")
    if args.process_index == 0:
        try:
            answer = httpx.get(f"{url.rstrip('/')}/v1/models", timeout=60).raise_for_status()
        except httpx.HTTPError as error:
            raise ValueError(
                f"teacher_server: no server answers at {url} ({error}); start one: vllm serve TEACHER "
                "--max-logprobs 20"
            ) from error
        served = answer.json()["data"][0].get("max_model_len")
        needed = longest_prompt + int(args.max_completion_length or 0) + 1  # it is asked for one token more
        if served is not None and served < needed:
            raise ValueError(
                f"teacher_server: it takes {served} tokens, and the longest prompt and max_completion_length "
                f"need {needed}; start it with --max-model-len {needed}, or lower max_completion_length"
            )
    vars(args).update(
        teacher_model_server_url=url.rstrip("/"),
        loss_top_k=top_k,
        loss_add_tail=True,
        reverse_kl_top_1_mode="sampled",
    )
