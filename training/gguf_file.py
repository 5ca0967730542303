"""Stage `gguf`: a GGUF file for llama.cpp and what is built on it, by llama.cpp's own converter.

The converter runs in a process of its own, from a checkout that the user names. It reads a model's config and
tokenizer with rules of its own and can go wrong without a word (an older one passes over the rope settings of
transformers 5, or takes a byte-level tokenizer for sentencepiece), so the file counts only when it has the
source's tokenizer and logits.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.stage import run_stage
from data.store import atomic_path, read_json
from inference.models import load_tokenizer
from training.model_source import find_source

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

SCRIPT = "convert_hf_to_gguf.py"
REQUIREMENTS = "requirements/requirements-convert_hf_to_gguf.txt"
FILE = "model.gguf"
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
"""Largest difference of a logit, relative to the largest logit, that the rounding of a type explains."""


@dataclass(kw_only=True)
class GgufFileConfig:
    """Fields of stage `gguf`."""

    model: str
    """Folder of a plain model: of a training stage without adapter, or of stage plain_model."""
    llama_cpp: str
    """Folder of a checkout of llama.cpp, which has the converter convert_hf_to_gguf.py."""
    outtype: Literal["f32", "f16", "bf16", "q8_0"] = "bf16"
    """f32, f16, bf16 or q8_0 (8 bits); llama.cpp's llama-quantize makes smaller types from such a file."""
    python: str | None = None
    """Python that runs the converter, of an environment with its requirements; this one where not given."""
    trust_remote_code: bool = False
    """Run code that comes with the model when it is compared."""


def gguf(config: GgufFileConfig, folder: Path) -> dict[str, Any]:
    """Write `model.gguf` into `folder`.

    Returns:
        bytes, tensors, vocabulary, outtype; `max_logit_difference`: largest difference between a logit of the
        source and of the file as transformers reads it, over a short text, in float32; `max_logit`: the
        largest logit there; `same_next_token`: share of places with the same most likely token.
    Raises:
        ValueError: see `converter`, `source_folder`, `convert` and `check_tokens`; or the logits differ.
    """
    script = converter(config.llama_cpp)
    source = source_folder(config.model)
    for left in folder.glob(f".{FILE}.*.tmp"):  # of a run that was killed; as large as the model
        left.unlink()
    with atomic_path(folder / FILE) as temporary:
        convert(config.python or sys.executable, script, source, temporary, config.outtype)
        counts = check_tokens(temporary, source, config.trust_remote_code)
        compared = compare(temporary, source, config)
    return {
        "bytes": (folder / FILE).stat().st_size,
        **counts,
        "outtype": config.outtype,
        **compared,
    }


def converter(llama_cpp: str) -> Path:
    """The converter of a checkout.

    Raises:
        ValueError: there is none.
    """
    script = Path(llama_cpp).expanduser() / SCRIPT
    if not script.is_file():
        raise ValueError(
            f"llama_cpp: {script} does not exist; give the folder of a checkout "
            "(git clone https://github.com/ggml-org/llama.cpp)"
        )
    return script.resolve()


def source_folder(model: str) -> Path:
    """The local folder of a plain model.

    Raises:
        ValueError: see `find_source`; or the model is an adapter, sharded or not on this machine.
    """
    source = find_source(model, key="model")
    if source.kind != "plain" or not Path(source.model).is_dir():
        what = {"adapter": "is an adapter", "zero3": "is sharded by ZeRO-3", "plain": "is no local folder"}
        raise ValueError(
            f"model: {model} {what[source.kind]}; run stage plain_model on it and give its folder"
        )
    return Path(source.model)


def convert(python: str, script: Path, source: Path, target: Path, outtype: str) -> None:
    """Run the converter.

    Raises:
        ValueError: it cannot be started or fails; says why in its own words, and what to do.
    """
    command = [python, str(script), str(source.resolve()), "--outfile", str(target), "--outtype", outtype]
    logger.info("converting %s to %s", source, outtype)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    except OSError as error:
        raise ValueError(
            f"python: {python} cannot be started ({error}); give the path of a Python"
        ) from error
    said = f"{done.stdout}\n{done.stderr}"
    logger.debug("%s", said)
    if done.returncode or not target.is_file():
        raise ValueError(failure(said, script, done.returncode))


def failure(said: str, script: Path, code: int) -> str:
    """What went wrong in the converter, and what to do about it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if "pre-tokenizer was not recognized" in said:
        found = re.search(r"chkhsh:\s*(\w+)", said)
        return (
            f"model: llama.cpp does not know how this tokenizer splits text before merging ({last}; chkhsh "
            f"{found.group(1) if found else 'unknown'}); a newer checkout may know it, else add the hash to "
            f"get_vocab_base_pre beside {script} with the pre-tokenizer that it has in llama.cpp"
        )
    if missing := re.search(r"No module named '([\w.]+)'", said):
        return (
            f"python: the converter needs package {missing.group(1)!r}; install "
            f"{script.parent / REQUIREMENTS} into an environment and give its Python as `python`"
        )
    if unknown := re.search(r"(?:Model|Architecture) '?(\w+)'? (?:is )?not supported", said):
        return f"model: llama.cpp at {script.parent} does not know {unknown.group(1)}; take a newer checkout"
    return f"llama_cpp: {script.name} ended with code {code} and no file: {' / '.join(lines[-3:]) or last}"


def check_tokens(file: Path, source: Path, trust_remote_code: bool) -> dict[str, int]:
    """Compare what the file says of its tokenizer with the source's.

    Returns:
        tensors and vocabulary.
    Raises:
        ValueError: tokens, the end token or the chat template or the kind of tokenizer are others.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    tokenizer = load_tokenizer(str(source), trust_remote_code=trust_remote_code)
    kind, tokens = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "tokens"))
    ids = tokenizer.get_vocab()
    other = [(i, token) for i, token in enumerate(tokens) if ids.get(token, i) != i]
    if other or len(tokens) < len(ids):
        raise ValueError(
            f"model: the file has {len(tokens)} tokens and {len(other)} of them have other ids than in the "
            f"tokenizer of {len(ids)} (first {other[:1]}); take a newer checkout of llama.cpp"
        )
    description = source / "tokenizer.json"
    if description.is_file() and _merges_bytes(read_json(description)) and kind != "gpt2":
        raise ValueError(
            f"model: llama.cpp took the byte-level tokenizer in {description} for one of kind {kind!r}, "
            "which splits text otherwise; it does so where that file says `byte_fallback: true`, as after a "
            "conversion from GGUF: take the tokenizer files of the original model"
        )
    for name, wanted in (
        ("tokenizer.ggml.eos_token_id", tokenizer.eos_token_id),
        ("tokenizer.chat_template", tokenizer.chat_template),
    ):
        written = reader.fields[name].contents() if name in reader.fields else None
        if wanted is not None and written != wanted:
            raise ValueError(
                f"model: {name} of the file is {str(written)[:80]!r} and not the tokenizer's "
                f"{str(wanted)[:80]!r}; "
                "take a newer checkout of llama.cpp"
            )
    return {"tensors": len(reader.tensors), "vocabulary": len(tokens)}


def _merges_bytes(description: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is a byte-level byte-pair encoding."""
    return description["model"].get("type") == "BPE" and '"ByteLevel"' in str(
        description.get("pre_tokenizer")
    ).replace("'", '"')


def compare(file: Path, source: Path, config: GgufFileConfig) -> dict[str, float]:
    """The logits of the file, as transformers reads it, beside those of the source.

    Raises:
        ValueError: they differ by more than the rounding of the type.
    """
    from training.whole_model import load_whole, probe_logits

    tokenizer = load_tokenizer(str(source), trust_remote_code=config.trust_remote_code)
    expected = probe_logits(load_whole(str(source), config.trust_remote_code), tokenizer)
    found = probe_logits(_read(file), tokenizer)[..., : expected.shape[-1]]
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if difference > TOLERANCE[config.outtype] * largest:
        raise ValueError(
            f"llama_cpp: the converted model computes something else: its logits differ by {difference:.3g} "
            f"where the largest is {largest:.3g}; the checkout may be older than the format of "
            f"{source / 'config.json'}: take a newer one"
        )
    return {
        "max_logit_difference": difference,
        "max_logit": largest,
        "same_next_token": _agreement(found, expected),
    }


def _read(file: Path) -> Any:
    """The model of a GGUF file in float32.

    Raises:
        ValueError: transformers cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        return AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model: transformers cannot read the converted file, so nothing says that it is right ({error})"
        ) from error


def _agreement(found: Tensor, expected: Tensor) -> float:
    return float((found.argmax(-1) == expected.argmax(-1)).float().mean())


if __name__ == "__main__":
    run_stage(gguf, GgufFileConfig)
