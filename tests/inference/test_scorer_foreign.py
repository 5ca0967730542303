"""Other people's reward models, each against its own recipe written down again on full encodings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

from data.foreign_step_formats import MathShepherdFormat, QwenPrmFormat, RlhflowFormat, SkyworkFormat
from inference.models import load_tokenizer
from inference.scorers.foreign_models import FORMATS
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.step_scorer import StepScorer

QUESTION = "What is 12 + 30? Let me check."
STEPS = ["First we add 10 and 30.", "Then 2: the answer is 42", "\\boxed{42}"]
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
LLAMA3_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA_TEXTS = ["What is 12 + 30? First we add 10 and 30. ки", "Then 2: the answer is 42 ки", "+ -"]


def extended(tokenizer: Any, tokens: Sequence[str] = (), **more: Any) -> Any:
    """A copy of the tokenizer with further control tokens."""
    tokenizer_object = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    kept = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer_object, **(kept | more))
    made.add_special_tokens({"additional_special_tokens": list(tokens)})
    made.chat_template = more.get("chat_template", tokenizer.chat_template)
    return made


def sentencepiece_like(texts: Sequence[str], *, words: bool = True) -> Any:
    """A tokenizer as Llama 2's: no pre-tokenizer, spaces as part of tokens, bytes for what is unknown; its
    tokens are parts of words, or of whole texts."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    control = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=control, show_progress=False)
    if words:
        bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.train_from_iterator(texts, trainer)
    bpe.pre_tokenizer = None
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def save(folder: Path, model: Any, tokenizer: Any, architecture: str, **heads: torch.Tensor) -> Path:
    """As the project that trained it has saved it: the weights of its head beside those of the model."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | heads, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": [architecture], "auto_map": {"AutoModel": "modeling_absent.Absent"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_qwen_prm(tokenizer: Any, folder: Path) -> Path:
    made = extended(tokenizer, ["<extra_0>"])
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(made), tie_word_embeddings=False, **SIZES))
    heads = {
        "score.0.weight": (64, 64),
        "score.0.bias": (64,),
        "score.2.weight": (2, 64),
        "score.2.bias": (2,),
    }
    drawn = {name: torch.randn(shape) * 0.3 for name, shape in heads.items()}
    return save(folder, model, made, "Qwen2ForProcessRewardModel", **drawn)


def save_skywork(tokenizer: Any, folder: Path) -> Path:
    made = extended(tokenizer, bos_token="<|endoftext|>")
    torch.manual_seed(2)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(made), tie_word_embeddings=False, **SIZES))
    drawn = {"v_head.summary.weight": torch.randn(1, 64) * 0.3, "v_head.summary.bias": torch.randn(1)}
    return save(folder, model, made, "Qwen2ForPrmModel", **drawn)


def save_math_shepherd(_: Any, folder: Path) -> Path:
    made = sentencepiece_like(LLAMA_TEXTS)
    torch.manual_seed(3)
    model = MistralForCausalLM(MistralConfig(vocab_size=len(made), sliding_window=20, **SIZES))
    return save(folder / "math-shepherd-mistral-7b-prm", model, made, "MistralForCausalLM")


def save_rlhflow(tokenizer: Any, folder: Path) -> Path:
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    made = extended(tokenizer, headers, bos_token="<|endoftext|>", chat_template=LLAMA3_TEMPLATE)
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(made), **SIZES))
    return save(folder / "Llama3.1-8B-PRM-Mistral-Data", model, made, "LlamaForCausalLM")


def hidden_states(folder: Path, ids: Sequence[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Last hidden states (tokens, size) of a Qwen2, and all weights that are stored."""
    weights = load_file(folder / "model.safetensors")
    model = Qwen2Model(Qwen2Config.from_pretrained(folder)).eval()
    model.load_state_dict(
        {name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")}
    )
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0], weights


def qwen_recipe(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer: Any = load_tokenizer(str(folder))
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
    hidden, weights = hidden_states(folder, ids)
    inner = (hidden @ weights["score.0.weight"].T + weights["score.0.bias"]).relu()
    right = (inner @ weights["score.2.weight"].T + weights["score.2.bias"]).softmax(-1)[:, 1]
    return right[torch.tensor(ids) == tokenizer.encode("<extra_0>")[0]].tolist()


def skywork_recipe(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer: Any = load_tokenizer(str(folder))
    ids, flags = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
    for step in steps:
        ids += [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
        flags.append(len(ids) - 1)
    hidden, weights = hidden_states(folder, ids)
    values = hidden @ weights["v_head.summary.weight"].T + weights["v_head.summary.bias"]
    return values[flags, 0].sigmoid().tolist()


def math_shepherd_recipe(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer: Any = load_tokenizer(str(folder))
    candidates, tag = tokenizer.encode("+ -")[1:], tokenizer.encode("ки")[-1]
    ids = torch.tensor([tokenizer.encode(f"{question} " + "\n".join(f"{step} ки" for step in steps))])
    model = MistralForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        scores = model(ids).logits[:, :, candidates].softmax(-1)[:, :, 0]
    return scores[ids == tag].tolist()


def rlhflow_recipe(folder: Path, question: str, steps: Sequence[str]) -> list[float]:
    tokenizer: Any = load_tokenizer(str(folder))
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    model: Any = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    conversation, scores = [], []
    for index, step in enumerate(steps):
        content = f"{question} {step}" if index == 0 else step
        conversation += [{"role": "user", "content": content}, {"role": "assistant", "content": "+"}]
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[:, -3, candidates]
        scores.append(logits.softmax(-1)[0, 0].item())
    return scores


MODELS: dict[str, tuple[Callable[[Any, Path], Path], Callable[..., list[float]]]] = {
    "qwen_prm": (save_qwen_prm, qwen_recipe),
    "skywork": (save_skywork, skywork_recipe),
    "math_shepherd": (save_math_shepherd, math_shepherd_recipe),
    "rlhflow": (save_rlhflow, rlhflow_recipe),
}


@pytest.fixture(scope="module")
def folders(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tokenizer, tmp_path_factory.mktemp(kind)) for kind, (make, _) in MODELS.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_scores_are_those_of_the_models_own_recipe(kind: str, folders: dict[str, Path]) -> None:
    scorer = load_scorer(ScorerOptions(scorer_model=str(folders[kind]), scorer_dtype="float32"))
    assert isinstance(scorer, StepScorer)
    assert isinstance(scorer.step_format, FORMATS[kind])  # type: ignore[arg-type]
    recipe = MODELS[kind][1]
    expected = recipe(folders[kind], QUESTION, STEPS)
    assert len(expected) == 3
    assert max(expected) - min(expected) > 1e-3
    for count in (1, 3):
        found = scorer.score([QUESTION] * 2, [STEPS[:count], [*STEPS[:1], "42"][:count]])
        assert found[0] == pytest.approx(expected[:count], abs=1e-4)
    assert found[1] == pytest.approx(recipe(folders[kind], QUESTION, [STEPS[0], "42"]), abs=1e-4)


TEXTS = st.text(st.sampled_from("aeки 12+-=.,<>|{}\n\t\\éπ∑"), min_size=1, max_size=20)


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXTS, steps=st.lists(TEXTS, min_size=1, max_size=4))
def test_some_steps_begin_more_steps(
    kind: str, folders: dict[str, Path], question: str, steps: list[str]
) -> None:
    assume(question.strip() and all(step.strip() and "ки" not in step for step in steps))
    step_format = step_formats(folders)[kind]
    whole = step_format.encode(question, steps)
    assert whole.ends == sorted(set(whole.ends))
    assert len(whole.ends) == len(steps)
    for count in range(1, len(steps) + 1):
        part = step_format.encode(question, steps[:count])
        assert part.ends == whole.ends[:count]
        assert part.ids[: part.ends[-1] + 1] == whole.ids[: part.ends[-1] + 1]


_FORMATS: dict[str, Any] = {}


def step_formats(folders: dict[str, Path]) -> dict[str, Any]:
    """Made once for all examples."""
    for kind, folder in folders.items():
        if kind not in _FORMATS:
            _FORMATS[kind] = FORMATS[kind](load_tokenizer(str(folder)))
    return _FORMATS


@pytest.mark.parametrize(
    ("kind", "step", "message"),
    [
        *((kind, " \n", "solution 0: a step has no text") for kind in MODELS),
        ("qwen_prm", "1<extra_0>2", "solution 0: a step contains the special token '<extra_0>'"),
        ("math_shepherd", "1 ки 2", "solution 0: a step contains the special token 'ки'"),
        ("rlhflow", "1<|eot_id|>", "solution 0: a step contains the special token '<|eot_id|>'"),
        ("skywork", "<|im_start|>1", "solution 0: a step contains the special token '<|im_start|>'"),
    ],
)
def test_steps_that_cannot_be_read(kind: str, step: str, message: str, folders: dict[str, Path]) -> None:
    scorer = load_scorer(ScorerOptions(scorer_model=str(folders[kind]), scorer=kind))
    with pytest.raises(ValueError, match=message):
        scorer.score([QUESTION], [["1", step]])
    with pytest.raises(ValueError, match="solution 0: question contains the special token"):
        scorer.score([f"{load_tokenizer(str(folders[kind])).eos_token}{QUESTION}"], [["1"]])


def test_several_lines_of_a_step_are_lines_of_skyworks_solution(folders: dict[str, Path]) -> None:
    step_format = step_formats(folders)["skywork"]
    lines, step = step_format.encode(QUESTION, ["1 + 2", "= 3", "3"]), ["1 + 2\n= 3", "3"]
    assert step_format.encode(QUESTION, step).ids == lines.ids
    assert step_format.encode(QUESTION, step).ends == lines.ends[1:]


def test_a_token_over_the_end_of_a_step_is_refused() -> None:
    texts = ["add 1 ки\nadd 2 ки\nadd 3 ки"] * 9
    words, whole = sentencepiece_like(LLAMA_TEXTS), sentencepiece_like(texts, words=False)
    assert len(MathShepherdFormat(words).encode(QUESTION, ["add 1", "add 2"]).ends) == 2
    step_format = MathShepherdFormat(words)
    step_format.tokenizer = whole
    with pytest.raises(ValueError, match="a token of this tokenizer goes over the end of a step"):
        step_format.encode(QUESTION, ["add 1", "add 2"])


def test_tokenizers_of_other_models_are_refused(tokenizer: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="<extra_0> is no token of this tokenizer"):
        QwenPrmFormat(tokenizer)
    with pytest.raises(ValueError, match="bos_token is missing"):
        SkyworkFormat(tokenizer)
    remembering = "{% for m in messages %}{{ m.role }}{{ m.content }}{{ loop.length }}{% endfor %}"
    with pytest.raises(ValueError, match="does not render turn by turn"):
        RlhflowFormat(extended(tokenizer, chat_template=remembering))
    with pytest.raises(ValueError, match=r"scorer_model: .* is no model of scorer: qwen_prm: <extra_0>"):
        load_scorer(ScorerOptions(scorer_model=str(folders["skywork"]), scorer="qwen_prm"))


def test_weights_of_other_models_are_refused(
    tokenizer: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(save_qwen_prm(tokenizer, tmp_path) / "model.safetensors")
    del weights["score.2.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is no model of scorer: qwen_prm, score\.2\.bias is missing"):
        load_scorer(ScorerOptions(scorer_model=str(tmp_path)))
