from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.report.build import build_report
from tests.evaluation.report.report_pages import edit, problems, read, section
from tests.evaluation.report.run_folders import STAGES, effect, make_run, write_json

ROOT = Path(__file__).resolve().parents[3]


# ------------------------------------------------------------------ what people and models write

ATTACKS = (
    "<script>alert(1)</script></pre></details></section></main></svg><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' --> <!-- ]]> &lt;b&gt; &#60; </style></title><svg/onload=alert(1)>",
    "\x1b[31mred\x1b[0m \u202egnitirw\u202c \u0000 \ud800 \u2028 \u200b \x07\r\n\t",
    "$\\frac{ {{x}} %s {0} ${x} \\N",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_written_is_text(tmp_path: Path, attack: str) -> None:
    run = make_run(tmp_path / "run", attack)
    edit(run / "04_search" / "manifest.json", status="failed", error=f"it broke{attack}")
    (run / "02_grpo" / "log.txt").write_text(attack, encoding="utf-8", errors="replace")
    path = build_report([run])
    text = path.read_text(encoding="utf-8")
    root = read(path)
    assert (len(root.all("script")), len(root.all("style"))) == (1, 1)
    tags = [element.tag for element in root.all("svg") for element in element.all("image")]
    assert tags == []
    assert not re.search(r"<[a-z][^>]*\son[a-z]+\s*=", text.replace(root.all("script")[0].text, ""))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)
    assert "it broke" in root.text
    seen = attack.split("\x1b")[0].strip()
    assert section(root, "claims").text.count(seen[:80]) >= 2
    assert section(root, "completions").text.count(seen[:80]) >= 6


def test_long_texts_are_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "long " * 200_000)
    edit(run / "04_search" / "manifest.json", status="failed", error="word" * 250_000)
    edit(run / "03_evaluate" / "metrics.json", **{"name" * 250_000: 1.0, "note": "text" * 250_000})
    (run / "01_sample" / "log.txt").write_text("x" * 10**6, encoding="utf-8")
    path = build_report([run])
    assert "characters left out" in read(path).text
    assert path.stat().st_size < 2 * 2**20


# ------------------------------------------------------------------ folders that are not whole


def truncate(name: str) -> Callable[[Path], Any]:
    def cut(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return cut


def replace_text(name: str, text: str) -> Callable[[Path], Any]:
    return lambda run: (run / name).write_text(text, encoding="utf-8")


def other_columns(name: str) -> Callable[[Path], Any]:
    return lambda run: pq.write_table(pa.table({"id": [1], "text": ["x"], "group": ["<b>"]}), run / name)


def other_types(name: str, column: str) -> Callable[[Path], Any]:
    def change(run: Path) -> None:
        table = pq.read_table(run / name)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array(["<b>"] * len(table))), run / name)

    return change


def nulls(name: str, column: str) -> Callable[[Path], Any]:
    def change(run: Path) -> None:
        table = pq.read_table(run / name)
        place, kind = table.column_names.index(column), table.schema.field(column).type
        pq.write_table(table.set_column(place, column, pa.nulls(len(table), kind)), run / name)

    return change


def older_version(run: Path) -> None:
    """Keys are missing or of other types."""
    odd = {"recipe": "sft", "inputs": ["run:01"], "seconds": "65", "git": None, "packages": [1], "host": 3}
    odd |= {"command": "python", "started": 5, "tokens": True, "error": {"a": 1}}
    write_json(run / "02_grpo" / "manifest.json", {"stage": 5, "status": None, **odd})
    write_json(run / "03_evaluate" / "manifest.json", {"status": "finished", "stage": "evaluate"})


def odd_metrics(run: Path) -> None:
    deep = '{"a":' * 90 + "1" + "}" * 90
    numbers = f'"nan": NaN, "inf": -Infinity, "big": 1e308, "whole": {10**400}, "deep": {deep}'
    odd = '"benchmarks": {"x": {"accuracy": {"mean": "high"}, "maj@x": 3, "pass@1": [1]}}, "evaluations": 7'
    rows = json.dumps([{"a": i, "b": [i] * 9, "c": {"d": i}} for i in range(5_000)])
    (run / "03_evaluate" / "metrics.json").write_text(
        f'{{{numbers}, {odd}, "rows": {rows}}}', encoding="utf-8"
    )


def symlink_loops(run: Path) -> None:
    (run / "loop").symlink_to(run)
    (run / "self").symlink_to(run / "self")
    (run / "01_sample" / "manifest.json").unlink()
    (run / "01_sample" / "manifest.json").symlink_to(run / "01_sample" / "manifest.json")
    (run / "01_sample" / "rejected" / "rows.parquet").unlink()
    (run / "01_sample" / "rejected" / "rows.parquet").symlink_to(run / "01_sample")


BROKEN: dict[str, dict[str, Callable[[Path], Any]]] = {
    "cut": {
        "03_evaluate manifest.json": truncate("03_evaluate/manifest.json"),
        "attempts.parquet is not readable": truncate("01_sample/attempts.parquet"),
        "rows.parquet is not readable": truncate("01_sample/rejected/rows.parquet"),
        "step-000001.parquet": truncate("02_grpo/rollouts/step-000001.parquet"),
        "nodes.parquet is not readable": truncate("04_search/nodes.parquet"),
        "effects.json": truncate("05_effects/effects.json"),
    },
    "others": {
        "03_evaluate manifest.json: it holds a list": replace_text("03_evaluate/manifest.json", "[]"),
        "04_search metrics.json: it holds a float": replace_text("04_search/metrics.json", "NaN"),
        "attempts.parquet: column": other_columns("01_sample/attempts.parquet"),
        "rows.parquet: column": other_columns("01_sample/rejected/rows.parquet"),
        "step-000000.parquet": other_columns("02_grpo/rollouts/step-000000.parquet"),
        "holds string, not integer": other_types("04_search/searches.parquet", "majority"),
        "effects.json holds no effects": lambda run: write_json(
            run / "05_effects" / "effects.json", {"effects": [{**effect("", 1), "unit": 3}]}
        ),
    },
    "nulls": {
        "01_sample a row has no text": nulls("01_sample/attempts.parquet", "text"),
        "02_grpo a row has no text": nulls("02_grpo/rollouts/step-000002.parquet", "text"),
        "is not whole": nulls("04_search/nodes.parquet", "text"),
        "03_evaluate manifest.json": replace_text("03_evaluate/manifest.json", '{"a":' * 10**5),
    },
    "other nulls": {
        "step-000000.parquet": other_types("02_grpo/rollouts/step-000000.parquet", "index"),
        "a search is not whole": nulls("04_search/searches.parquet", "classes"),
        "04_search manifest.json": lambda run: (run / "04_search/manifest.json").write_bytes(b"\xff\xfe{}"),
        "a row has no rule": nulls("01_sample/rejected/rows.parquet", "rule"),
        "effects.json holds no effects": lambda run: write_json(
            run / "05_effects" / "effects.json", {"effects": [{**effect("", 1), "margin": [2]}]}
        ),
    },
    "missing": {
        "03_evaluate manifest.json: it is missing": lambda run: (run / "03_evaluate/manifest.json").unlink(),
        "05_effects metrics.json: it is missing": lambda run: (run / "05_effects/metrics.json").unlink(),
        "attempts.parquet is not readable": replace_text("01_sample/attempts.parquet", ""),
        "02_grpo": replace_text("02_grpo/rollouts/step-last.parquet", ""),
        "04_search metrics.json": replace_text("04_search/metrics.json", ""),
        "effects.json holds no effects": lambda run: write_json(
            run / "05_effects" / "effects.json", {"effects": [effect("", 1e305)]}
        ),
    },
    "older version": {
        "02_grpo manifest.json: it does not say its stage": older_version,
        "02_grpo manifest.json: it does not say its status": lambda run: None,
    },
    "odd metrics": {"": odd_metrics},
    "loops": {"01_sample manifest.json": symlink_loops},
}
"""What is done to a run, by what its page then tells."""


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_told_and_the_rest_is_there(whole: Path, tmp_path: Path, case: str) -> None:
    run = tmp_path / "mine"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("report"))
    for damage in BROKEN[case].values():
        damage(run)
    root = read(build_report([run]))
    told = problems(root)
    for words in filter(None, BROKEN[case]):
        assert any(words in text for text in told), (words, told)
    assert len(told) == len(list(filter(None, BROKEN[case])))
    assert len(root.all("details", "stage")) == len(STAGES)
    assert section(root, "again")


def test_of_100_000_completions_only_what_is_shown_is_in_memory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    enlarge(run / "01_sample" / "attempts.parquet", 25_000, rows_of_a_group=20_000)
    enlarge(run / "02_grpo" / "rollouts" / "step-000001.parquet", 16_000, rows_of_a_group=100_000)
    code = f"""from pathlib import Path
import pyarrow
from evaluation.report.build import build_report
build_report([Path({str(run)!r})])
print(pyarrow.default_memory_pool().max_memory())"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    root = read(run / "report" / "index.html")
    assert problems(root) == []
    assert len(section(root, "completions").all("article", "card")) == 6
    assert len(section(root, "rollouts").all("article", "card")) == 12
    assert int(ran.stdout) < 64 * 2**20  # of 400 MB of text in each of the tables


def enlarge(path: Path, times: int, rows_of_a_group: int) -> None:
    """So many times the rows, of 4 kB of text each; those of rollouts become groups of the same size."""
    table = pq.read_table(path)
    text = pa.array([f"{text}{'word ' * 800}" for text in table["text"].to_pylist()])
    table = table.set_column(table.column_names.index("text"), "text", text)
    rows = len(table)
    table = pa.concat_tables([table] * times)
    if (place := table.schema.get_field_index("group")) >= 0:
        groups = pa.array([row // rows for row in range(rows * times)], pa.int64())
        table = table.set_column(place, table.schema.field(place), groups)
    pq.write_table(table, path, use_dictionary=False, compression="zstd", row_group_size=rows_of_a_group)
