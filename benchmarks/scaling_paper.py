"""What the large recipes would need on 2 x 8 and on 16 x 8 GPUs: memory, bytes between GPUs and time a step.

    python -m benchmarks.scaling_paper [--gpu H100]

Nothing is run: memory is that of training/memory_plan.py, bytes those of training/communication.py, and the
operations of a step are done at the share of the peak that is assumed where nothing waits for the network
(training/time_plan.SHARE). `network` is the least time of the collectives, at the full speed of the slower
kind of link: with 8 cards of 400 Gb/s a node, and with one card of 100 Gb/s. Where it is longer than
`compute` a step takes that long at least; where it is shorter it may be hidden behind the operations.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from inference.accelerators import accelerator
from training.communication import Cluster, traffic
from training.memory_job import Job
from training.memory_plan import predict
from training.model_shape import network_of
from training.time_plan import SHARE, Work, flops_of_job, training_flops

NODES = (2, 16)
SLOW_NODE = 12.5e9
"""Bytes per second of one card of 100 Gb/s."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training step of a recipe."""

    name: str
    model: str
    sharding: str
    rows: int
    """Of a step, over all GPUs."""
    tokens: int
    """Of a row, in the mean."""
    longest: int
    """Of a row, at most: for the memory."""
    scored: int = 0
    """Forward passes more than training has (old and reference log-probabilities)."""
    others: tuple[str, ...] = ()
    """Models that are only asked."""


CASES = (
    Case(name="32B SFT (s1)", model="Qwen2.5-32B", sharding="zero3", rows=16, tokens=8192, longest=32768),
    Case(name="32B SFT", model="Qwen2.5-32B", sharding="zero3", rows=128, tokens=8192, longest=32768),
    Case(name="7B SFT", model="Qwen2.5-7B", sharding="zero3", rows=128, tokens=8192, longest=32768),
    Case(name="7B SFT", model="Qwen2.5-7B", sharding="zero2", rows=128, tokens=8192, longest=32768),
    Case(name="70B SFT", model="Llama-3.3-70B", sharding="zero3", rows=128, tokens=8192, longest=32768),
    Case(
        name="32B GRPO",
        model="Qwen2.5-32B",
        sharding="zero3",
        rows=512,
        tokens=8192,
        longest=17408,
        scored=1,
        others=("Qwen2.5-32B",),
    ),
)


def rows_of(case: Case, nodes: int, gpu: str) -> list[str]:
    """A line of the table."""
    device = accelerator(gpu)
    assert device is not None, "checked by the parser"
    cluster = Cluster(nodes=nodes)
    micro_steps = case.rows // cluster.gpus
    if not micro_steps:
        return [case.name, case.sharding, str(case.rows), f"{nodes} x 8", *["-"] * 6]  # fewer rows than GPUs
    network = network_of(case.model)
    assert network is not None, case.model
    job = Job(
        config=network,
        dtype=network.dtype,
        half=True,
        rows=1,
        tokens=case.longest,
        accumulates=micro_steps > 1,
        processes=cluster.gpus,
        sharding=case.sharding,  # pyright: ignore[reportArgumentType]
        attention="documents",
        others=tuple(network_of(other) for other in case.others),
    )
    plan = predict(job)
    flops = training_flops(
        job, flops_of_job(job, plan.sizes), Work(rows=case.rows, tokens=case.tokens, scored=case.scored)
    )
    compute = flops / (cluster.gpus * device.half_tflops * 1e12 * SHARE)
    sent = traffic(case.sharding, plan.sizes.all, micro_steps=micro_steps, scored=case.scored)  # pyright: ignore[reportArgumentType]
    slow = sent.seconds(replace(cluster, node_bandwidth=SLOW_NODE))
    return [
        case.name,
        case.sharding,
        str(case.rows),
        f"{nodes} x 8",
        f"{plan.gib:.0f}{'' if plan.gib <= device.memory_gib else ' (too much)'}",
        str(micro_steps),
        f"{sent.per_gpu(cluster) / 1e9:.0f}",
        f"{compute:.1f}",
        f"{sent.seconds(cluster):.2f}",
        f"{slow:.0f}",
    ]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--gpu", default="H100")
    options = parser.parse_args()
    if accelerator(options.gpu) is None:
        parser.error(f"--gpu: {options.gpu!r} is not known; see inference/accelerators.py")
    table = Table(title=f"{options.gpu}, one row a GPU and micro-step, gradient checkpointing", box=MARKDOWN)
    for column in (
        "step",
        "launch",
        "rows",
        "nodes",
        "GiB a GPU",
        "micro-steps",
        "GB a GPU",
        "compute s",
        "network s",
        "at 100 Gb/s",
    ):
        table.add_column(column, justify="left" if column in ("step", "launch") else "right")
    for case in CASES:
        for nodes in NODES:
            table.add_row(*rows_of(case, nodes, options.gpu))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
