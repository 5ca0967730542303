"""`trl.DistillationTrainer` with rows, completions and measures of this project.

The divergence, the teacher's forward pass and distributed training are TRL's. What is different, and where it
hooks in:

- which rows a step has (`_generate_and_score_completions`), so that a resumed run has the same;
- completions by the transformers engine where vLLM is not used, or the teacher's recorded ones
  (`_generate_single_turn`);
- a loss that is not finite ends the run (`compute_loss`);
- evaluation is agreement with the teacher on the student's own completions (`evaluate`);
- all that a resumed run needs is in its checkpoint (`_save_checkpoint`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import ProgressCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.server_distillation import ServerDistillationTrainer
from trl.extras.profiling import profiling_context

from data.heartbeat import beat, phase
from data.prompts import Prompter
from data.store import read_json, write_json
from inference.draw import attempt_seed
from inference.engine import Generation
from inference.ranks import gather
from rewards.texts import graded_text
from rewards.verify import verify_many
from training.agreement import Agreement, compare, compare_most_likely
from training.distill_rows import DistillRow
from training.generation import PolicyEngine, finished
from training.progress import StepLines
from training.questions import Questions
from training.servers import answering, server_url

logger = logging.getLogger(__name__)


class DistillTrainer(DistillationTrainer):
    """Distillation from a teacher in this process, over the whole vocabulary.

    Other arguments are those of `trl.DistillationTrainer`.

    Args:
        rows: what is trained on, in a shuffled order of every epoch.
        on_policy_fraction: share of rows whose completion the student draws; the others have a target.
        batch_size: rows that a process generates together; None: all of an optimizer step.
    """

    # what the type checker does not know of these
    args: Any
    model: Any
    model_wrapped: Any
    accelerator: Any
    teacher_model: Any

    def __init__(
        self,
        model: Any,
        args: DistillationConfig,
        *,
        rows: Sequence[DistillRow],
        held_out: Sequence[DistillRow],
        prompter: Prompter,
        on_policy_fraction: float = 1.0,
        batch_size: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=_indices(len(rows)),
            eval_dataset=_indices(len(held_out)) if held_out else None,
            processing_class=prompter.tokenizer,
            **others,
        )
        self.rows = rows
        self.order = Questions(rows, seed=args.seed)
        self.held_out = held_out
        self.prompter = prompter
        self.on_policy_fraction = on_policy_fraction
        self.generated_tokens = 0
        """Of completions that the student drew to train on, of all processes, over the whole run."""
        self.recorded_tokens = 0
        """Of the teacher's recorded completions, likewise; a row counts each time that it is trained on."""
        self._asked: list[tuple[DistillRow, int]] = []
        """Rows of this process for the next generation, with the number of each in the run."""
        size = batch_size or args.per_device_train_batch_size * args.gradient_accumulation_steps
        self._engine = PolicyEngine(self, batch_size=size) if PolicyEngine.can_run(self) else None
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(StepLines())

    # -------------------------------------------------------------- rows and completions

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The next rows of the run, whichever rows TRL's data loader counts."""
        count, processes = len(inputs), self.accelerator.num_processes
        first = self.order.drawn
        start = self.accelerator.process_index * count
        drawn = self.order.draw(count * processes)[start : start + count]
        self._asked = [(self.rows[index], first + start + i) for i, index in enumerate(drawn)]
        prompts = [{"prompt": row.prompt.text} for row, _ in self._asked]
        return super()._generate_and_score_completions(prompts)

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The prompts are tokenised already."""
        return [list(row.prompt.ids) for row, _ in self._asked], None, {}

    def _generate_single_turn(self, *_: Any, **__: Any) -> list[list[int]]:
        """A completion of each row: the student's own, or the teacher's recorded one."""
        own = [place for place, (row, number) in enumerate(self._asked) if self._is_own(row, number)]
        drawn = self.draw(
            [self._asked[place][0] for place in own],
            [self.seed_of(*self._asked[place]) for place in own],
        )
        by_place = {place: generation.token_ids for place, generation in zip(own, drawn, strict=True)}
        ids = [
            by_place[place] if place in by_place else list(row.target or ())
            for place, (row, _) in enumerate(self._asked)
        ]
        self._count(gather([(len(tokens), place in by_place) for place, tokens in enumerate(ids)]))
        return ids

    def seed_of(self, row: DistillRow, number: int) -> int:
        """Seed of a completion that the student draws, by the question and its number in the run."""
        return attempt_seed(self.args.seed, row.problem.id, number)

    def _is_own(self, row: DistillRow, number: int) -> bool:
        draw = attempt_seed(self.args.seed, f"whose completion: {row.problem.id}", number) / 2**63
        return row.target is None or draw < self.on_policy_fraction

    def draw(self, rows: Sequence[DistillRow], seeds: Sequence[int]) -> list[Generation]:
        """A completion of the student for each row. Every process must call it."""
        most = max(gather([len(rows)]))
        if not most:
            return []
        asked = list(rows) or [self.rows[0]]  # every process must take part, whatever it has to draw
        if self._engine is not None:
            with profiling_context(self, "completions"):
                prompts = [row.prompt.ids for row in asked]
                done = self._engine.generate(prompts, seeds or [0], logprobs=False, longest_row=None)
            return done[: len(rows)]
        asked += asked[:1] * (most - len(asked))  # vLLM gives every process equally many
        with phase("generate"), answering("vllm_server_base_url", server_url(self.args)):
            ids = super()._generate_single_turn([list(row.prompt.ids) for row in asked], None, {})
        done = [finished(self._tokenizer, list(row), self.eos_token_ids, None) for row in ids]
        return done[: len(rows)]

    def _count(self, counts: Sequence[tuple[int, bool]]) -> None:
        """Metrics of a generation, from the tokens of each row and whether the student drew them."""
        own = [tokens for tokens, is_own in counts if is_own]
        self.generated_tokens += sum(own)
        self.recorded_tokens += sum(tokens for tokens, is_own in counts if not is_own)
        metrics = self._metrics["train"]
        metrics["generated_tokens"] = [self.generated_tokens]
        metrics["recorded_tokens"] = [self.recorded_tokens]
        metrics["on_policy_share"].append(len(own) / len(counts))

    # -------------------------------------------------------------- loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The divergence.

        Raises:
            ValueError: it is not finite; transformers would log 0 and train on.
        """
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not loss.isfinite():
            raise ValueError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: logits of the student or "
                "of the teacher are not finite; lower learning_rate, or set teacher_dtype to that of the "
                "teacher's training or to float32"
            )
        return result

    # -------------------------------------------------------------- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Agreement with the teacher on the student's own completions of the held-out questions.

        Each question has one completion, with the transformers engine by the same seed at every evaluation.
        """
        was_training = self.model.training
        self.model.eval()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train(was_training)
        return metrics

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        share = -(-len(self.held_out) // processes)
        # as many for each process, since all must forward as often; those beyond the last do not count
        places = range(process * share, (process + 1) * share)
        rows = [self.held_out[place % len(self.held_out)] for place in places]
        seeds = [attempt_seed(self.args.seed, f"held out: {row.problem.id}", 0) for row in rows]
        drawn = self.draw(rows, seeds)
        real = [place < len(self.held_out) for place in places]
        sums = torch.zeros(4, dtype=torch.float64, device=self.accelerator.device)
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            pairs = [(r.prompt.ids, g.token_ids) for r, g in zip(rows[part], drawn[part], strict=True)]
            counted = sum(real[part])  # the real ones come first
            found = self._compare(pairs[:counted] or pairs)
            sums += found if counted else 0
            beat()
        found = Agreement.of(self.accelerator.reduce(sums, reduction="sum"))
        verdicts = self._verdicts(rows[: sum(real)], drawn[: sum(real)])
        judged = [verdict for verdict in gather(verdicts) if verdict != "unverifiable"]
        measures = {
            "agreement": found.agreement,
            "kl": found.kl,
            "reverse_kl": found.reverse_kl,
            "accuracy": judged.count("correct") / len(judged) if judged else None,
            "completion_length": found.tokens / len(self.held_out),
        }
        return {name: value for name, value in measures.items() if value is not None}

    def _compare(self, pairs: Sequence[Any]) -> torch.Tensor:
        return compare(self.model_wrapped, self.teacher_model, pairs, self.accelerator.device)

    def _verdicts(self, rows: Sequence[DistillRow], drawn: Sequence[Generation]) -> list[str]:
        """What the verifier says of completions."""
        form = self.prompter.thinking_format
        texts = [row.prompt.prefill + g.text for row, g in zip(rows, drawn, strict=True)]
        graded = [graded_text(form.split(text), form) for text in texts]
        return [verdict.outcome for verdict in verify_many([row.problem.answer for row in rows], graded)]

    # -------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """What TRL saves, and where the run is in its rows."""
        super()._save_checkpoint(model, trial)
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process:
            state = {
                "rows": self.order.state(),
                "generated_tokens": self.generated_tokens,
                "recorded_tokens": self.recorded_tokens,
            }
            write_json(checkpoint / "distill_state.json", state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = read_json(Path(checkpoint) / "distill_state.json")
        self.order.load_state(state["rows"])
        self.generated_tokens = state["generated_tokens"]
        self.recorded_tokens = state["recorded_tokens"]


class ServerDistillTrainer(DistillTrainer, ServerDistillationTrainer):
    """Distillation from a teacher behind a server, over the tokens that it tells of (see TRL's trainer).

    The loss is the mean of the micro-batches' own means over tokens, and not the mean over all tokens.
    """

    teacher_client: Any

    def _get_teacher_token_logprobs_from_server(self, *args: Any) -> dict[str, torch.Tensor]:
        """As TRL's, without what is no token of the student (see `check_output_rows`)."""
        with answering("teacher_server", self.teacher_client.base_url):
            told = super()._get_teacher_token_logprobs_from_server(*args)
        unknown = told["topk_token_ids"] >= self.model.config.get_text_config().vocab_size
        told["topk_logprobs"] = told["topk_logprobs"].masked_fill(unknown, -torch.inf)
        told["topk_token_ids"] = told["topk_token_ids"].masked_fill(unknown, 0)
        return told

    def _compare(self, pairs: Sequence[Any]) -> torch.Tensor:
        with answering("teacher_server", self.teacher_client.base_url):
            answer = self.teacher_client.get_sequence_logprobs(
                sequences=[[*prompt, *completion] for prompt, completion in pairs],
                prompt_lengths=[len(prompt) for prompt, _ in pairs],
                top_logprobs=1,
            )
        likely = [[ids[0] for ids in row] for row in answer["logprob_token_ids"]]
        return compare_most_likely(self.model_wrapped, likely, pairs, self.accelerator.device)


def _indices(count: int) -> Dataset:
    """What TRL's data loader counts steps with; rows are chosen when a step begins."""
    return Dataset.from_dict({"index": list(range(count))})
