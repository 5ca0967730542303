"""Bytes between GPUs, against the ZeRO paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling_paper import CASES, rows_of
from training.communication import Cluster, Launcher, traffic

PSI = 7.5e9
MANY = Cluster(nodes=1000, gpus_per_node=8)
"""Of so many GPUs each receives everything, but for a part of 8,000."""


@pytest.mark.parametrize(("launcher", "times"), [("ddp", 2), ("zero2", 2), ("zero3", 3), ("fsdp2", 3)])
def test_volumes_are_those_of_the_zero_paper(launcher: Launcher, times: int) -> None:
    """Section 7 of arXiv 1910.02054: 2, 2 and 3 times the parameters."""
    sent = traffic(launcher, PSI).per_gpu(MANY)
    assert sent == pytest.approx(times * 2 * PSI, rel=1e-3)


def test_accumulation_costs_zero_and_not_ddp() -> None:
    one, four = (traffic("ddp", PSI, micro_steps=steps) for steps in (1, 4))
    assert one == four
    assert traffic("zero2", PSI, micro_steps=4).per_gpu(MANY) == pytest.approx(5 * 2 * PSI, rel=1e-3)
    assert traffic("zero3", PSI, micro_steps=4).per_gpu(MANY) == pytest.approx(12 * 2 * PSI, rel=1e-3)


def test_zero3_gathers_for_passes_that_only_score() -> None:
    assert traffic("zero3", PSI, scored=1).per_gpu(MANY) == pytest.approx(4 * 2 * PSI, rel=1e-3)
    assert traffic("ddp", PSI, scored=1) == traffic("ddp", PSI)


def test_an_adapter_sends_its_gradients_alone() -> None:
    assert traffic("ddp", PSI, trained=PSI / 100).per_gpu(MANY) == pytest.approx(4 * PSI / 100, rel=1e-3)
    assert traffic("zero3", PSI, trained=PSI / 100).per_gpu(MANY) == pytest.approx(4.02 * PSI, rel=1e-3)


def test_one_gpu_sends_nothing_and_one_node_nothing_to_others() -> None:
    sent = traffic("zero3", PSI)
    assert sent.seconds(Cluster(nodes=1, gpus_per_node=1)) == 0
    one = Cluster(nodes=1)
    assert sent.per_node(one) == 0
    assert sent.seconds(one) == pytest.approx(6 * PSI * 7 / 8 / one.gpu_bandwidth)


def test_the_slower_kind_of_link_decides() -> None:
    sent = traffic("zero3", PSI)
    slow = Cluster(nodes=2, node_bandwidth=12.5e9)  # one card of 100 Gb/s
    assert sent.seconds(slow) == pytest.approx(sent.per_node(slow) / 12.5e9)
    assert sent.seconds(slow) > 10 * sent.seconds(Cluster(nodes=2))


def test_a_row_of_the_table_of_large_recipes() -> None:
    name, launch, rows, nodes, gib, micro_steps, *numbers = rows_of(replace(CASES[2], longest=512), 2, "H100")
    assert (name, launch, rows, nodes, micro_steps) == ("7B SFT", "zero3", "128", "2 x 8", "8")
    assert all(float(number) > 0 for number in (gib, *numbers))


def test_no_cluster_without_gpus() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        Cluster(nodes=0)
