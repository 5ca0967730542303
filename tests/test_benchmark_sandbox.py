"""The sandbox benchmark runs and names its keys."""

from __future__ import annotations

import json
import subprocess
import sys


def test_quick() -> None:
    command = [sys.executable, "-m", "benchmarks.sandbox", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "sandbox"
    assert min(result["plain_subprocess_ms"], result["weak_ms"]) > 0
