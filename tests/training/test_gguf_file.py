"""GGUF files by the real converter of llama.cpp, and what is said when it fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.models import cached_folder
from training.gguf_file import SCRIPT, GgufFileConfig, convert, failure, gguf

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def llama_cpp() -> str:
    """Folder of a checkout of llama.cpp."""
    folder = os.environ.get("LLAMA_CPP")
    if not folder:
        pytest.skip("needs llama.cpp: set LLAMA_CPP to a checkout (and LLAMA_CPP_PYTHON to a Python for it)")
    return folder


@pytest.fixture
def smollm(tmp_path: Path) -> Path:
    """SmolLM2 with the tokenizer that it was published with: what the GGUF file that it comes from lacks."""
    cached = cached_folder(SMOLLM)
    if not cached.is_dir():
        pytest.skip("needs SmolLM2: run `slowthink fetch-model smollm2`")
    folder = tmp_path / "smollm2"
    shutil.copytree(cached, folder)
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    description["model"].update(byte_fallback=False, unk_token=None, fuse_unk=False)
    description["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
    }
    description["decoder"] = {**byte_level, "add_prefix_space": True}
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def run(model: Path | str, folder: Path, llama_cpp: str, outtype: Any = "bf16") -> dict[str, Any]:
    python = os.environ.get("LLAMA_CPP_PYTHON")
    config = GgufFileConfig(model=str(model), llama_cpp=llama_cpp, outtype=outtype, python=python)
    return gguf(config, folder)


@pytest.mark.slow
def test_the_file_has_the_tokens_and_logits_of_the_model(
    llama_cpp: str, smollm: Path, tmp_path: Path
) -> None:
    metrics = run(smollm, tmp_path / "out", llama_cpp)
    assert (metrics["tensors"], metrics["vocabulary"]) == (272, 49152)
    assert metrics["max_logit_difference"] < 1e-3
    assert metrics["same_next_token"] == 1.0
    assert metrics["bytes"] == (tmp_path / "out" / "model.gguf").stat().st_size
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]
    eight = run(smollm, tmp_path / "q8", llama_cpp, "q8_0")
    assert eight["bytes"] < 0.6 * metrics["bytes"]
    assert metrics["max_logit_difference"] < eight["max_logit_difference"] < 0.1 * eight["max_logit"]


@pytest.mark.slow
def test_an_unknown_pre_tokenizer_is_refused(llama_cpp: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"does not know how this tokenizer splits text.*chkhsh [0-9a-f]{64}"
    ):
        run(tiny_model, tmp_path / "out", llama_cpp)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_tokenizer_taken_for_another_kind_is_refused(llama_cpp: str, tmp_path: Path) -> None:
    """As the cached SmolLM2 says of itself: byte_fallback, left over from GGUF."""
    cached = cached_folder(SMOLLM)
    if not cached.is_dir():
        pytest.skip("needs SmolLM2: run `slowthink fetch-model smollm2`")
    with pytest.raises(
        ValueError, match=r"byte-level tokenizer in .* for one of kind 'llama'.*byte_fallback"
    ):
        run(cached, tmp_path / "out", llama_cpp)
    assert not list((tmp_path / "out").iterdir())


def test_no_converter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"llama_cpp: .*{SCRIPT} does not exist.*git clone"):
        run(tmp_path, tmp_path / "out", str(tmp_path))


def test_what_is_no_plain_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / SCRIPT).touch()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).touch()
    with pytest.raises(ValueError, match="is an adapter; run stage plain_model"):
        run(adapter, tmp_path / "out", str(tmp_path))
    with pytest.raises(ValueError, match=r"^model: /absent does not exist"):
        run("/absent", tmp_path / "out", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^model: .*empty holds no model"):
        run(tmp_path / "empty", tmp_path / "out", str(tmp_path))
    with pytest.raises(ValueError, match="is no local folder; run stage plain_model"):
        run("owner/model", tmp_path / "out", str(tmp_path))


def test_a_converter_that_fails_is_heard(tmp_path: Path) -> None:
    script = tmp_path / SCRIPT
    script.write_text("import sys\nprint('the tensor is too odd', file=sys.stderr)\nsys.exit(3)\n")
    with pytest.raises(ValueError, match=f"{SCRIPT} ended with code 3 and no file: the tensor is too odd"):
        convert(sys.executable, script, tmp_path, tmp_path / "out.gguf", "f16")
    script.write_text("import package_that_is_absent\n")
    with pytest.raises(ValueError, match=r"needs package 'package_that_is_absent'.*requirements.*`python`"):
        convert(sys.executable, script, tmp_path, tmp_path / "out.gguf", "f16")
    script.write_text("")
    with pytest.raises(ValueError, match="ended with code 0 and no file: it said nothing"):
        convert(sys.executable, script, tmp_path, tmp_path / "out.gguf", "f16")
    with pytest.raises(ValueError, match="python: /absent/python cannot be started"):
        convert("/absent/python", script, tmp_path, tmp_path / "out.gguf", "f16")


def test_what_a_killed_run_left_goes(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / SCRIPT).write_text("raise SystemExit(3)\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".model.gguf.4711.tmp").write_text("half a model")
    with pytest.raises(ValueError, match="ended with code 3"):
        run(tiny_model, out, str(tmp_path))
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    "said",
    [
        "ERROR:hf-to-gguf:Model OddForCausalLM is not supported",
        "NotImplementedError: Architecture 'OddForCausalLM' not supported!",
    ],
)
def test_an_unknown_architecture_is_named(said: str) -> None:
    assert "does not know OddForCausalLM; take a newer checkout" in failure(said, Path("/x") / SCRIPT, 1)
