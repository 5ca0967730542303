"""Known accelerators: memory, arithmetic and bandwidth, for predictions and for the share of the peak that a
training reaches.

Peaks are dense (no sparsity), from the makers' data sheets: NVIDIA's of each device and of HGX B200; for
GeForce the appendices of the white papers of Ampere GA102 and Ada (16 bits with float32 accumulation); AWS's
page of g5 instances for the A10G; AMD's of MI300X, MI325X and MI250X (half a device, as a process sees it).
Float32 is without TF32, torch's default for matrices. Memory is what the driver shows as the total.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

PEAK_VARIABLE = "SLOWTHINK_PEAK_TFLOPS"
"""Environment variable whose value, in TFLOP/s, stands for the peak of any device and precision."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of device."""

    name: str
    """Words that a device's own name has, most of them after the maker's."""
    memory_gib: float
    half_tflops: float
    """bfloat16 or float16 with float32 accumulation, dense."""
    float_tflops: float
    bandwidth_gb_per_second: float
    has_bfloat16: bool = True


ACCELERATORS = (
    # the more particular name first
    Accelerator("B200", 179.1, 2250, 75, 7700),
    Accelerator("H200", 140.4, 989.4, 66.9, 4800),
    Accelerator("H100 NVL", 93.6, 835, 60, 3900),
    Accelerator("H100 PCIe", 79.6, 756, 51.2, 2000),
    Accelerator("H100", 79.6, 989.4, 66.9, 3350),
    Accelerator("A100 40GB", 40, 312, 19.5, 1555),
    Accelerator("A100", 80, 312, 19.5, 2039),
    Accelerator("L40S", 45, 362, 91.6, 864),
    Accelerator("L4", 22.5, 121, 30.3, 300),
    Accelerator("A10G", 22.5, 70, 35, 600),
    Accelerator("A10", 22.5, 125, 31.2, 600),
    Accelerator("A40", 45, 149.7, 37.4, 696),
    Accelerator("A6000", 48, 154.8, 38.7, 768),
    Accelerator("6000 Ada", 48, 364.2, 91.1, 960),
    Accelerator("4090", 24, 165.2, 82.6, 1008),
    Accelerator("3090", 24, 71, 35.6, 936),
    Accelerator("V100 32GB", 32, 125, 15.7, 900, has_bfloat16=False),
    Accelerator("V100", 16, 125, 15.7, 900, has_bfloat16=False),
    Accelerator("T4", 15, 65, 8.1, 320, has_bfloat16=False),
    Accelerator("MI325X", 256, 1307.4, 163.4, 6000),
    Accelerator("MI300X", 192, 1307.4, 163.4, 5300),
    Accelerator("MI250X", 64, 191.5, 47.9, 1638),
)


def accelerator(device_name: str) -> Accelerator | None:
    """The kind of a device by its own name ("NVIDIA A100-SXM4-40GB") or a short one ("H100"); None if
    unknown."""
    words = _words(device_name)
    return next((known for known in ACCELERATORS if _words(known.name) <= words), None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Dense peak of a device in FLOP/s; None where it is not known. $SLOWTHINK_PEAK_TFLOPS stands before all.

    Args:
        dtype: float32, bfloat16 or float16, with or without `torch.`.

    Raises:
        ValueError: another dtype, or an environment variable that is no positive number.
    """
    own = os.environ.get(PEAK_VARIABLE)
    if own:
        return _positive(own) * 1e12
    short = dtype.removeprefix("torch.")
    if short not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype: {dtype!r} is not float32, bfloat16 or float16")
    known = accelerator(device_name)
    if known is None or (short == "bfloat16" and not known.has_bfloat16):
        return None
    return (known.float_tflops if short == "float32" else known.half_tflops) * 1e12


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{PEAK_VARIABLE}: {text!r} is not a positive number of TFLOP/s")
    return value


def memory_gib(device_name: str) -> float | None:
    """Memory of a device; None where it is not known."""
    known = accelerator(device_name)
    return None if known is None else known.memory_gib
