"""The stages that a recipe can name. Nothing is imported until a stage's configs are asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from data.did_you_mean import did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage: the module that runs it and the dataclasses whose fields its recipe may set."""

    module: str
    configs: tuple[str, ...]
    """`module:Class`, imported on demand."""
    help: str
    launched: bool = False
    """True: always started through `accelerate launch`, with the recipe's `launch:`."""
    parallel: bool = False
    """True: started so where the recipe has `launch:`; every process does a part."""

    def config_classes(self) -> tuple[type, ...]:
        """Import and return the config dataclasses."""
        pairs = (path.split(":") for path in self.configs)
        return tuple(getattr(importlib.import_module(module), name) for module, name in pairs)


STAGES = {
    "collect": Stage(
        module="data.collect",
        configs=("data.collect:CollectConfig",),
        help="many sources to one schema, deduplicated and decontaminated",
    ),
    "collect_steps": Stage(
        module="data.collect_steps",
        configs=("data.collect_steps:CollectStepsConfig",),
        help="labelled solutions to one table, decontaminated and split by problem",
    ),
    "label_domains": Stage(
        module="data.label_domains",
        configs=("data.label_domains:LabelDomainsConfig",),
        help="a domain for every problem: from a column, a model or clusters",
    ),
    "pretrain": Stage(
        module="training.pretrain",
        configs=("training.pretrain:PretrainConfig",),
        help="a tiny model of the small world, from nothing",
        launched=True,
    ),
    "sample": Stage(
        module="inference.sample",
        configs=("inference.sample:SampleConfig",),
        help="n verified completions per problem",
        parallel=True,
    ),
    "label_steps": Stage(
        module="inference.label_steps",
        configs=("inference.label_steps:LabelStepsConfig",),
        help="labels for the steps of attempts by rollouts from where each step ends",
        parallel=True,
    ),
    "search": Stage(
        module="inference.search.stage",
        configs=("inference.search.stage:SearchConfig",),
        help="best-of-n, beam search, DVTS, REBASE, MCTS, revisions against a reward model",
        parallel=True,
    ),
    "curate": Stage(
        module="data.curate",
        configs=("data.curate:CurateConfig",),
        help="quality, difficulty and diversity filters: traces to train on",
    ),
    "mix": Stage(
        module="data.mix",
        configs=("data.mix:MixConfig",),
        help="traces of several parts by weight, for SFT",
    ),
    "control_sets": Stage(
        module="data.control_sets",
        configs=("data.control_sets:ControlSetsConfig",),
        help="traces whose question states a thinking budget: tokens, steps, short or long",
    ),
    "sft": Stage(
        module="training.sft",
        configs=("training.sft:SftConfig", "trl:SFTConfig", "trl:ModelConfig"),
        help="supervised fine-tuning on reasoning traces",
        launched=True,
    ),
    "grpo": Stage(
        module="training.grpo",
        configs=("training.grpo:GrpoConfig", "trl:GRPOConfig", "trl:ModelConfig"),
        help="reinforcement learning with rule-based rewards (R1-Zero)",
        launched=True,
    ),
    "distill": Stage(
        module="training.distill",
        configs=("training.distill:DistillConfig", "trl:DistillationConfig", "trl:ModelConfig"),
        help="a teacher's distribution over tokens, on what the student writes or on recorded traces",
        launched=True,
    ),
    "prm": Stage(
        module="training.prm",
        configs=("training.prm:PrmConfig", "transformers:TrainingArguments", "trl:ModelConfig"),
        help="process or outcome reward model from labelled steps",
        launched=True,
    ),
    "reward_model": Stage(
        module="training.reward_model",
        configs=("training.reward_model:RewardModelConfig", "trl:RewardConfig", "trl:ModelConfig"),
        help="outcome reward model from pairs: right and wrong attempts, or chosen and rejected answers",
        launched=True,
    ),
    "plain_model": Stage(
        module="training.plain_model",
        configs=("training.plain_model:PlainModelConfig",),
        help="one folder that every loader reads, from an adapter, a checkpoint or ZeRO-3 shards",
    ),
    "gguf": Stage(
        module="training.gguf_file",
        configs=("training.gguf_file:GgufFileConfig",),
        help="a GGUF file for llama.cpp, by its own converter",
    ),
    "push": Stage(
        module="training.push",
        configs=("training.push:PushConfig",),
        help="model, card, recipes and numbers to the hub; first into a folder",
    ),
    "evaluate": Stage(
        module="evaluation.evaluate",
        configs=("evaluation.evaluate:EvaluateConfig",),
        help="benchmarks: accuracy, pass@k, maj@k with intervals",
        parallel=True,
    ),
    "compare": Stage(
        module="evaluation.compare",
        configs=("evaluation.compare:CompareConfig",),
        help="evaluations side by side: what each stage did to accuracy, format, language and length",
    ),
    "evaluate_prm": Stage(
        module="evaluation.evaluate_prm",
        configs=("evaluation.evaluate_prm:EvaluatePrmConfig",),
        help="reward models: first errors (ProcessBench), calibration, best-of-n against the majority",
    ),
    "evaluate_search": Stage(
        module="evaluation.evaluate_search",
        configs=("evaluation.evaluate_search:EvaluateSearchConfig",),
        help="search: accuracy for compute, by difficulty, compute-optimal choice and its planner",
    ),
    "effects": Stage(
        module="evaluation.effects",
        configs=("evaluation.effects:EffectsConfig",),
        help="claims of the literature against what the pipeline measured: shown, not shown, opposite",
    ),
    "test_time": Stage(
        module="evaluation.test_time",
        configs=("evaluation.test_time:TestTimeConfig",),
        help="control, scaling and performance of methods that spend thinking tokens",
    ),
}


def find_stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ValueError: no such stage; names the nearest.
    """
    if name not in STAGES:
        raise ValueError(f"stage: {name!r} is not a stage; {did_you_mean(name, STAGES)}")
    return STAGES[name]
