"""Bytes that a training step sends between GPUs, and the least time that takes, by launcher.

Volumes are those of the ZeRO paper (arXiv 1910.02054, section 7): data parallel training and ZeRO-2 send
twice the parameters a step, ZeRO-3 three times. With gradient accumulation ZeRO reduces gradients in each
micro-step and ZeRO-3 gathers the weights in each, while DDP waits for the last one. Collectives are counted
as ring (or tree) algorithms that use all links at once: every GPU receives (W - 1) / W of the whole over
NVLink, every node (N - 1) / N of it over its network cards. Latency is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Launcher = Literal["ddp", "zero2", "zero3", "fsdp2"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes and what connects them; bandwidths are in bytes per second and direction."""

    nodes: int
    gpus_per_node: int = 8
    gpu_bandwidth: float = 450e9
    """Of one GPU to the others of its node: NVLink 4 of H100 SXM (NVIDIA: 900 GB/s in both directions)."""
    node_bandwidth: float = 400e9
    """Of a whole node to others: 8 cards of 400 Gb/s (NVIDIA DGX H100 data sheet)."""

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise ValueError(
                f"a cluster has at least one node and one GPU, not {self.nodes} x {self.gpus_per_node}"
            )

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one optimizer step sends."""

    gathered_bytes: float
    """Weights that are all-gathered, each counted once for each time."""
    reduced_bytes: float
    """Gradients that are reduce-scattered (an all-reduce counts as one, and as one gather)."""

    def per_gpu(self, cluster: Cluster) -> float:
        """Bytes that each GPU receives."""
        return (self.gathered_bytes + self.reduced_bytes) * (cluster.gpus - 1) / cluster.gpus

    def per_node(self, cluster: Cluster) -> float:
        """Bytes that each node receives from the others."""
        return (self.gathered_bytes + self.reduced_bytes) * (cluster.nodes - 1) / cluster.nodes

    def seconds(self, cluster: Cluster) -> float:
        """Least time at the full speed of the slower kind of link."""
        inside = self.per_gpu(cluster) / cluster.gpu_bandwidth
        return max(inside, self.per_node(cluster) / cluster.node_bandwidth)


def traffic(
    launcher: Launcher,
    parameters: float,
    *,
    trained: float | None = None,
    micro_steps: int = 1,
    scored: int = 0,
    weight_bytes: int = 2,
    gradient_bytes: int = 2,
) -> Traffic:
    """Of one optimizer step.

    Args:
        parameters: of the model.
        trained: those that have gradients, all if None; of an adapter much fewer.
        micro_steps: gradient_accumulation_steps.
        scored: forward passes of each micro-step beside that of training (old and reference
            log-probabilities).
        weight_bytes, gradient_bytes: of one, as they are sent (bfloat16: 2).
    """
    trained = parameters if trained is None else trained
    gradients = trained * gradient_bytes
    if launcher == "ddp":  # an all-reduce of the gradients: reduced, then gathered
        return Traffic(gathered_bytes=gradients, reduced_bytes=gradients)
    if launcher == "zero2":
        return Traffic(gathered_bytes=trained * weight_bytes, reduced_bytes=micro_steps * gradients)
    weights = parameters * weight_bytes  # for the forward pass, and again for the backward pass
    return Traffic(gathered_bytes=(2 + scored) * micro_steps * weights, reduced_bytes=micro_steps * gradients)
