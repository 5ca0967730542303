"""`trl.GRPOTrainer` with questions, rollouts and forward passes of this project.

What TRL does stays TRL's: advantages, losses, KL, vLLM, importance sampling, distributed training. What is
different, and where it hooks in:

- which questions a step has, and fresh ones for groups without advantage (`_generate_and_score_completions`);
- generation by the transformers engine where vLLM is not used (`_draw`);
- forward passes of packed rows, each prompt once, rows without gradient not at all (`PackedGRPOTrainer`);
- all that a resumed run needs is in its checkpoint (`_save_checkpoint`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import Tensor
from transformers import ProgressCallback
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import profiling_context

from data.heartbeat import phase
from data.prompts import Prompter
from data.rollouts import remove_rollouts, write_rollouts
from data.store import read_json, write_json
from inference.choice import NotFiniteError
from inference.draw import attempt_seed
from inference.engine import Generation
from inference.ranks import gather
from rewards.checked import checked
from rewards.registry import Reward
from training.alarms import Alarms, TrainingStoppedError
from training.generation import PolicyEngine, computes_in_float32, finished
from training.grpo_arguments import compares_groups, groups_per_generation
from training.packed_trainer import PackedGRPOTrainer
from training.progress import StepLines
from training.questions import Questions
from training.reference import load_reference, save_reference
from training.rollout_options import RolloutOptions
from training.rollouts import Drawn, Group, Reader, choose_groups, is_useful, replacements, to_rollouts
from training.servers import answering, server_url
from training.watch import step_metrics

logger = logging.getLogger(__name__)
# TRL prints a whole row each time that no reward applies to a completion; rollouts/unverifiable counts them
logging.getLogger("trl.trainer.grpo_trainer").addFilter(
    lambda record: "All reward functions returned None" not in record.getMessage()
)


class GrpoTrainer(PackedGRPOTrainer):
    """GRPO on `questions`; other arguments are those of `trl.GRPOTrainer`."""

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        *,
        questions: Questions,
        prompter: Prompter,
        rewards: Sequence[Reward],
        reader: Reader,
        options: RolloutOptions,
        eval_questions: Questions | None = None,
        **others: Any,
    ) -> None:
        args.reward_weights = [reward.weight for reward in rewards]
        super().__init__(
            model=model,
            args=args,
            reward_funcs=[checked(reward) for reward in rewards],
            train_dataset=_indices(questions),
            eval_dataset=_indices(eval_questions) if eval_questions else None,
            processing_class=prompter.tokenizer,
            **others,
        )
        self.rollout_func = self._hand_over  # set here, since TRL warns that it is experimental
        self.questions = questions
        self.eval_questions = eval_questions
        self.reader = reader
        self.is_chat = prompter.is_chat
        self._compares_groups = compares_groups(rewards)
        self.options = options
        self.generated: list[Group] = []
        """All groups of the last generation."""
        self.generated_tokens = 0
        """Of all groups of the run."""
        if options.full_length_first:
            self.longest_row = questions.longest_prompt + self.max_completion_length
        self._engine = self._make_engine() if PolicyEngine.can_run(self) else None
        self._handed: _Handed | None = None
        """Stands for what TRL's code would generate and score itself."""
        self._old_logprobs_known = False
        """Whether TRL's next forward pass of the policy is for what generation has told already."""
        self.alarms = Alarms(
            patience=options.patience, stop_on_collapse=options.stop_on_collapse, examples=self._examples
        )
        self.add_callback(self.alarms)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(StepLines())

    def _make_engine(self) -> PolicyEngine:
        rows = self.options.rollout_batch_size or self.args.generation_batch_size // self.args.world_size
        return PolicyEngine(self, batch_size=rows)

    # -------------------------------------------------------------- rollouts

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Draw groups and score them; TRL's code makes advantages and tensors of them."""
        if not self.model.training:
            assert self.eval_questions is not None
            rows = [row["index"] for row in inputs]
            groups = self._roll(self.eval_questions, rows, self.num_generations_eval, first=-1)
            self._handed = self._local(self.eval_questions, groups)
            return super()._generate_and_score_completions(self._handed.inputs)
        self.generated = self._collect()
        trained = choose_groups(self.generated, groups_per_generation(self.args))
        self._handed = self._local(self.questions, trained)
        self._old_logprobs_known = self._sampled_logprobs_do
        output = super()._generate_and_score_completions(self._handed.inputs)
        useless = ~torch.tensor(self._handed.useful, device=output["advantages"].device)
        # rounding gives equal rewards one of about 1e-4
        output["advantages"] = output["advantages"].masked_fill(useless, 0.0)
        self._record(trained)
        return output

    def _collect(self) -> list[Group]:
        """All groups of a generation, on every process; useless ones are replaced as far as allowed."""
        size, processes = self.num_generations, self.accelerator.num_processes
        # groups that give every process the same number of rows, or of whole groups
        step = processes if self._compares_groups else processes // math.gcd(processes, size)
        groups: list[Group] = []
        count = groups_per_generation(self.args)
        for _ in range(1 + self.options.dynamic_sampling):
            first = self.questions.drawn * size
            questions = self.questions.draw(min(count, len(self.questions) // step * step))
            rows = [question for question in questions for _ in range(size)]
            share = len(rows) // processes
            start = self.accelerator.process_index * share
            groups += self._roll(self.questions, rows[start : start + share], size, first=first + start)
            count = replacements(groups, groups_per_generation(self.args), step)
            if not count:
                break
        return groups

    def _roll(self, questions: Questions, rows: Sequence[int], size: int, *, first: int) -> list[Group]:
        """The groups of all processes, of `size` completions each.

        Args:
            rows: questions by index, one for each completion of this process.
            first: number of its first completion in the run, for the seeds.
        """
        asked = [questions[row] for row in rows]
        generations = self._draw([question.prompt.ids for question in asked], self._seeds(asked, first), size)
        inputs = [question.columns for question in asked]
        texts = [generation.text for generation in generations]
        turns = [[{"role": "assistant", "content": text}] for text in texts] if self.is_chat else texts
        ids = [generation.token_ids for generation in generations]
        with phase("sync"):  # but for the rewards themselves (see `checked`): all processes' are gathered
            rewards = super()._calculate_rewards(inputs, [row["prompt"] for row in inputs], turns, ids)
        with phase("reward"):
            facts = self.reader.facts(turns, {key: [row[key] for row in inputs] for key in inputs[0]})
        drawn = [
            Drawn(
                token_ids=generation.token_ids,
                text=generation.text,
                truncated=generation.finish_reason == "length",
                logprobs=generation.logprobs,
                facts=fact,
            )
            for generation, fact in zip(generations, facts, strict=True)
        ]
        all_rows = gather(list(rows))
        domains = [questions[row].problem.domain for row in all_rows]
        return self._grouped(all_rows, domains, gather(drawn), rewards.cpu(), size)

    def _seeds(self, asked: Sequence[Any], first: int) -> list[int]:
        """Of each completion: by question and number in the run, or in evaluation by step and place."""
        if first >= 0:
            pairs = [(question.problem.id, first + place) for place, question in enumerate(asked)]
        else:
            start = self.accelerator.process_index * len(asked)
            step = f"evaluation at {self.state.global_step}"
            pairs = [(f"{step}: {q.problem.id}", start + place) for place, q in enumerate(asked)]
        return [attempt_seed(self.args.seed, name, number) for name, number in pairs]

    def _draw(self, prompts: list[tuple[int, ...]], seeds: list[int], size: int) -> list[Generation]:
        if self._engine is not None:
            longest = self.longest_row if self.rehearses and self._engine.engine is None else None
            try:
                with profiling_context(self, "rollouts"):
                    return self._engine.generate(
                        prompts, seeds, logprobs=self._sampled_logprobs_do, longest_row=longest
                    )
            except NotFiniteError as error:
                raise self._stopped(str(error)) from error
        with phase("generate"), answering("vllm_server_base_url", server_url(self.args)):
            ids, logprobs = super()._generate_single_turn([list(ids) for ids in prompts], None, {}, size)
        rows = zip(ids, logprobs or [None] * len(ids), strict=True)
        return [finished(self._tokenizer, list(row), self.eos_token_ids, of_row) for row, of_row in rows]

    @property
    def _sampled_logprobs_do(self) -> bool:
        """Whether TRL wants log-probabilities of the policy that generated, and those of generation are
        them."""
        wanted = self.args.gradient_accumulation_steps % self._steps_per_generation != 0
        alike = self._engine is not None and self.temperature == 1 and computes_in_float32(self)
        return wanted and alike and self.model.training

    def _grouped(
        self, rows: list[int], domains: list[str], drawn: list[Drawn], rewards: Tensor, size: int
    ) -> list[Group]:
        weighted = rewards * self.reward_weights
        totals = weighted.nansum(1).masked_fill(weighted.isnan().all(1), math.nan).tolist()
        values, weights = rewards.tolist(), self.reward_weights.tolist()
        return [
            Group(
                question=rows[part.start],
                rows=drawn[part],
                rewards=values[part],
                totals=totals[part],
                verdicts=[self.reader.verdict(row, domains[part.start]) for row in values[part]],
                useful=is_useful(values[part], totals[part], weights, self.multi_objective_aggregation),
                checkable=self.reader.is_checkable(domains[part.start]),
            )
            for part in (slice(start, start + size) for start in range(0, len(rows), size))
        ]

    def _local(self, questions: Questions, groups: Sequence[Group]) -> _Handed:
        """This process's rows of the groups, and the rewards of all."""
        rows = [(questions[group.question], row) for group in groups for row in group.rows]
        useful = [group.useful for group in groups for _ in group.rows]
        share = len(rows) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        rewards = torch.tensor([row for group in groups for row in group.rewards])
        return _Handed(
            rows=rows[start : start + share],
            useful=useful[start : start + share],
            rewards=rewards.to(self.accelerator.device),
        )

    def _hand_over(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: the completions that are there already."""
        assert self._handed is not None
        rows = [row for _, row in self._handed.rows]
        return {
            "prompt_ids": [list(question.prompt.ids) for question, _ in self._handed.rows],
            "completion_ids": [row.token_ids for row in rows],
            "logprobs": [row.logprobs for row in rows] if self.use_vllm else None,
        }

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """TRL asks for rewards that are there already."""
        assert self._handed is not None
        return self._handed.rewards

    def _record(self, trained: Sequence[Group]) -> None:
        """Metrics, the curriculum and the rollout log, from a generation."""
        for group in self.generated:
            if group.checkable:
                self.questions.observe(group.question, sum(group.right), len(group.right))
            self.generated_tokens += sum(len(row.token_ids) for row in group.rows)
        for name, value in step_metrics(self.generated, trained).items():
            self._metrics["train"][name].append(value)
        every = self.options.log_rollouts_every
        if (
            not self.accelerator.is_main_process
            or not every
            or self._step // self._steps_per_generation % every
        ):
            return
        size = self.num_generations
        given = list(self._logs["advantages"])[-size * len(trained) :]
        places = {id(group): size * place for place, group in enumerate(trained)}
        rollouts = to_rollouts(
            self.generated,
            step=self.state.global_step,
            questions=self.questions,
            reward_names=self.reader.names,
            advantages=lambda group: given[places[id(group)] :][:size] if id(group) in places else None,
        )
        write_rollouts(Path(str(self.args.output_dir)), self.state.global_step, rollouts)

    def _examples(self) -> str:
        """Three completions of the last generation, and what the verifier read in them."""
        shown = []
        for group in self.generated[:3]:
            problem, row = self.questions[group.question].problem, group.rows[0]
            saw = (
                repr(row.facts.extracted)
                if row.facts.extracted
                else f"nothing ({row.facts.rule or 'no rule'})"
            )
            rewards = dict(zip(self.reader.names, group.rewards[0], strict=True))
            shown.append(
                f"question {problem.question[:300]!r}\n  completion {row.text[:600]!r}\n  extractor saw "
                f"{saw}; gold {problem.answer!r}; rewards {rewards}"
            )
        return "\n".join(shown)

    @property
    def _steps_per_generation(self) -> int:
        """Micro-batches that one generation serves."""
        return self.args.steps_per_generation * self.num_iterations

    # -------------------------------------------------------------- training

    def _get_per_token_logps_and_entropies(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """See `PackedGRPOTrainer`; what generation has computed already is not computed again. The first
        pass after generation is for it, the next one may be of the reference: the policy without adapter."""
        if self._old_logprobs_known:
            self._old_logprobs_known = False
            assert self._handed is not None
            rows = [row.logprobs or [] for _, row in self._handed.rows]
            padded = [[*of_row, *[0.0] * (logits_to_keep - len(of_row))] for of_row in rows]
            return torch.tensor(padded, device=self.accelerator.device), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **options
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called before each optimizer step."""
        norm: Any = super()._get_grad_norm(model, grad_norm)
        if self.options.stop_on_nan and not math.isfinite(float(norm)):
            raise self._stopped(f"the gradient is not finite ({float(norm)})")
        return norm

    def _stopped(self, why: str) -> TrainingStoppedError:
        return TrainingStoppedError(
            f"step {self.state.global_step + 1}: {why}; lower learning_rate or train in float32. Last good "
            f"checkpoint: {self.state.best_model_checkpoint or 'none yet'}"
        )

    # -------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """What TRL saves, and what else a resumed run needs: questions, reference, completions not used
        up."""
        super()._save_checkpoint(model, trial)
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        checkpoint.mkdir(exist_ok=True)  # every process writes into it
        if self.args.sync_ref_model:
            save_reference(self.accelerator, self.ref_model, checkpoint)
        if self._step % self._steps_per_generation:
            torch.save(self._buffered_inputs, checkpoint / f"rollout_buffer_{self.args.process_index}.pt")
        if self.accelerator.is_main_process:
            state = {
                "step": self._step,
                "processes": self.args.world_size,
                "questions": self.questions.state(),
                "completion_tokens": self.generated_tokens,
                "warnings": self.alarms.seen,
            }
            write_json(checkpoint / "grpo_state.json", state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        state = read_json(folder / "grpo_state.json")
        self._step = state["step"]
        self.questions.load_state(state["questions"])
        self.generated_tokens = state["completion_tokens"]
        self.alarms.resume(self.state.global_step, state["warnings"])
        if self.accelerator.is_main_process:
            remove_rollouts(Path(str(self.args.output_dir)), self.state.global_step)
        if self.args.sync_ref_model:
            load_reference(self.accelerator, self.ref_model, folder)
        if self._step % self._steps_per_generation:
            self._load_buffer(folder, state["processes"])

    def _load_buffer(self, checkpoint: Path, processes: int) -> None:
        """Go on with the completions of a generation that was not used up. Where a process has none of its
        own, all of them draw a whole generation anew."""
        buffer = checkpoint / f"rollout_buffer_{self.args.process_index}.pt"
        is_whole = processes == self.args.world_size and all(gather([buffer.is_file()]))
        if is_whole:
            stored = torch.load(buffer, map_location="cpu", weights_only=True)
            self._buffered_inputs = send_to_device(stored, self.accelerator.device)
            return
        self._step += -self._step % self._steps_per_generation
        if self.accelerator.is_main_process:
            logger.warning(
                "%s has no rollouts for each of %d processes; they are drawn anew",
                checkpoint,
                self.args.world_size,
            )


@dataclass(frozen=True, kw_only=True)
class _Handed:
    """Completions of this process, and the rewards of all processes."""

    rows: list[tuple[Any, Drawn]]
    useful: list[bool]
    """Whether the row's group is."""
    rewards: Tensor

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """What TRL's code goes by; as texts, so that it does not parse completions."""
        return [{"prompt": question.prompt.text} for question, _ in self.rows]


def _indices(questions: Questions) -> Dataset:
    """What TRL's data loader counts steps with; in training the questions are chosen when a step begins."""
    return Dataset.from_dict({"index": list(range(len(questions)))})
