"""Are the weights of a model folder whole? By the headers of its safetensors files, without reading weights.

transformers gives a tensor that it does not find random values and a line in a report; a file that was cut
fails in each loader with a message of its own, after minutes for a large model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from data.store import read_json

WHOLE = ("model.safetensors", "adapter_model.safetensors")
INDEX = "model.safetensors.index.json"
_HEADER_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000
"""As safetensors itself refuses."""


def check_weight_files(folder: Path) -> None:
    """Refuse safetensors files that are cut, gone, or of other tensors than the folder's index says.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            _tensors(folder / name)
    if not (folder / INDEX).is_file():
        return
    shards: dict[str, set[str]] = defaultdict(set)
    for tensor, shard in read_json(folder / INDEX)["weight_map"].items():
        shards[shard].add(tensor)
    for shard, wanted in shards.items():
        if not (folder / shard).is_file():
            raise _broken(folder / shard, f"is missing, and {INDEX} names it")
        missing = wanted - _tensors(folder / shard)
        if missing:
            raise _broken(folder / shard, f"lacks {min(missing)} and {len(missing) - 1} more, says {INDEX}")


def _tensors(file: Path) -> set[str]:
    """Names of the tensors of a file that has all their bytes."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        header = stream.read(min(length, _LONGEST_HEADER_BYTES))
    try:
        tensors = {name: of for name, of in json.loads(header).items() if name != "__metadata__"}
        ends = [of["data_offsets"][1] for of in tensors.values()]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _broken(file, f"has no header that can be read ({error})") from error
    needed = _HEADER_LENGTH_BYTES + length + max(ends, default=0)
    if size != needed:
        raise _broken(file, f"has {size} bytes and not {needed}")
    return set(tensors)


def _broken(file: Path, what: str) -> ValueError:
    return ValueError(f"model_name_or_path: {file} {what}; copy the model again, or make it again")
