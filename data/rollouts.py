"""The rollout log of a GRPO run: every completion with its rewards, one parquet file for each generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.schema import Outcome
from data.store import atomic_path, clean_text

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "rollouts"
REWARD_PREFIX = "reward_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion of a group."""

    step: int
    """Optimizer steps that the policy had behind it."""
    group: int
    """Number of its group among those of the step, in the order in which they were drawn."""
    index: int
    """0 <= index < completions of the group."""
    id: str
    """The problem's id."""
    question: str
    answer: str
    """Gold answer."""
    prompt: str
    text: str
    """The completion, control tokens included."""
    tokens: int
    truncated: bool
    extracted: str
    """The answer that the verifier read, empty where it found none or no reward reads answers."""
    rule: str
    """The verifier's rule that decided, or why none did."""
    verdict: Outcome
    """correct where the reward that tells it is 1 or more, unverifiable where it is None."""
    formatted: bool
    """One thinking block and one response, nothing else."""
    language_share: float | None
    rewards: dict[str, float | None]
    """Each reward before its weight; None where it does not apply."""
    reward: float | None
    """Their weighted sum."""
    advantage: float
    useful: bool
    """Whether the completions of its group have different rewards, so that there is something to learn."""
    trained: bool
    """Whether its group was trained on; False where others were taken."""


_FIELDS = tuple(field for field in fields(Rollout) if field.name != "rewards")
_PLAIN = tuple(field.name for field in _FIELDS)
_MAY_BE_NULL = tuple(field.name for field in _FIELDS if str(field.type) == "float | None")


def rollout_path(folder: Path, step: int) -> Path:
    """File of a generation in a stage's folder."""
    return folder / FOLDER / f"step-{step:06d}.parquet"


def write_rollouts(folder: Path, step: int, rollouts: Sequence[Rollout]) -> None:
    """Write the rollouts of one generation, atomically; each reward has a column reward_<name>."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(list(rollouts[0].rewards))
    rows = [clean_text(_flat(rollout)) for rollout in rollouts]
    with atomic_path(rollout_path(folder, step)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def _schema(rewards: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "int": pa.int64(),
        "float": pa.float64(),
        "float | None": pa.float64(),
        "bool": pa.bool_(),
        "str": pa.string(),
        "Outcome": pa.string(),
    }
    columns = [pa.field(f.name, kinds[str(f.type)], f.name in _MAY_BE_NULL) for f in _FIELDS]
    return pa.schema([*columns, *((REWARD_PREFIX + name, pa.float64()) for name in rewards)])


def _flat(rollout: Rollout) -> dict[str, Any]:
    row = {name: getattr(rollout, name) for name in _PLAIN}
    return {**row, **{REWARD_PREFIX + name: value for name, value in rollout.rewards.items()}}


def logged_steps(folder: Path) -> list[int]:
    """Steps of which a stage's folder has rollouts, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (folder / FOLDER).glob("step-*.parquet"))


def remove_rollouts(folder: Path, step: int) -> None:
    """Remove those of a stage's folder from this step on, which a resumed run draws again."""
    for logged in logged_steps(folder):
        if logged >= step:
            rollout_path(folder, logged).unlink()


def read_rollouts(folder: Path, step: int) -> Iterator[Rollout]:
    """The rollouts of one generation.

    Raises:
        ValueError: there are none, or the file is not readable, or not one of rollouts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = rollout_path(folder, step)
    try:
        table = pq.read_table(path)
        rewarded = [name for name in table.column_names if name.startswith(REWARD_PREFIX)]
        schema = _schema([name.removeprefix(REWARD_PREFIX) for name in rewarded])
        rows = table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not readable ({error})") from error
    yield from map(rollout_from_row, rows)


def rollout_from_row(row: Mapping[str, Any]) -> Rollout:
    """A row of the file of a generation."""
    rewards = {key.removeprefix(REWARD_PREFIX): row[key] for key in row if key.startswith(REWARD_PREFIX)}
    return Rollout(**{name: row[name] for name in _PLAIN}, rewards=rewards)
