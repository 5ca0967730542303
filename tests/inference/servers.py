"""Real servers for the tests of engines, and the model that they serve.

vLLM is run by $SLOWTHINK_VLLM_PYTHON, the python of an environment of its own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

VLLM_PYTHON = os.environ.get("SLOWTHINK_VLLM_PYTHON")
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "2",
}
"""What makes vLLM start fast on a small machine without a GPU."""
WITHOUT_VLLM = (
    "needs vLLM: `bash tests/inference/vllm_environment.sh FOLDER`, then "
    "`export SLOWTHINK_VLLM_PYTHON=FOLDER/bin/python`"
)


class Server:
    """A server process that can be killed and started again on the same port."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        """`command` without its port, which is added as --port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.command = [*command, "--port", str(self.port)]
        self.environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")} | environment
        (folder / "hf" / "hub").mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float = 240.0) -> None:
        """Until it answers.

        Raises:
            RuntimeError: it ended or did not answer in time; with the end of its log.
        """
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command}: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL to the process and those that it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def vllm_server(model: Path, folder: Path) -> Server:
    """`vllm serve`; skips where there is no vLLM."""
    if not VLLM_PYTHON:
        pytest.skip(WITHOUT_VLLM)
    command = [str(Path(VLLM_PYTHON).parent / "vllm"), "serve", str(model), "--dtype", "float32"]
    options = ["--max-model-len", "512", "--enforce-eager", "--served-model-name", "tiny"]
    return Server([*command, *options], folder, **ON_CPU)


def transformers_server(model: Path, folder: Path) -> Server:
    """`transformers serve`; skips where its dependencies are missing."""
    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("fastapi") is None:
        pytest.skip("needs pip install 'transformers[serving]'")
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model)]
    return Server([*command, "--host", "127.0.0.1", "--device", "cpu"], folder, OMP_NUM_THREADS="1")


UNKNOWN_OUTPUTS = 24


def save_deciding_model(tokenizer: Any, folder: Path) -> Path:
    """A random Qwen2 with two tokens that decide what follows, saved with its tokenizer as servers load it.

    Behind <|fim_pad|> every one of its `UNKNOWN_OUTPUTS` outputs that the tokenizer does not know is more
    likely than any that it knows; behind <|im_start|> the end token is the likeliest.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer) + UNKNOWN_OUTPUTS,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(config)
    unknown = list(range(len(tokenizer), config.vocab_size))
    pad, start = tokenizer.convert_tokens_to_ids(["<|fim_pad|>", "<|im_start|>"])
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding[:, :2] = head[:, :2] = 0  # two dimensions that only the deciding tokens use
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:2] = layer.mlp.down_proj.weight[:2] = 0
        head[[*unknown, pad, start]] = 0
        embedding[pad, 0] = embedding[start, 1] = 100
        head[unknown, 0] = head[tokenizer.eos_token_id, 1] = 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder
