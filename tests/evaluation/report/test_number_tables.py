from __future__ import annotations

from evaluation.report.number_tables import MOST_ROWS, MOST_TABLES, plain_numbers, tables
from tests.evaluation.report.page_elements import Element, Reader

SHARE = {"mean": 0.5, "low": 0.25, "high": 0.75, "problems": 8}


def read(html: str) -> dict[str, list[list[str]]]:
    """Rows of each table by its title."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for part in Reader(html, {"br"}).root.parts:
        if isinstance(part, Element) and part.tag == "h4":
            title = part.text
        elif isinstance(part, Element) and part.tag == "div":
            found[title] = [
                [cell.text for cell in row.parts if isinstance(cell, Element)] for row in part.all("tr")
            ]
    return found


def test_what_stands_alone() -> None:
    metrics = {"loss_last": 0.25, "tokens": 1234567, "share": SHARE, "whole": True, "none": None, "deep": {}}
    assert [(Reader(k, ()).root.text, Reader(v, ()).root.text) for k, v in plain_numbers(metrics)] == [
        ("loss last", "0.250"),
        ("tokens", "1,234,567"),
        ("share", "0.500 [0.250, 0.750]"),
        ("whole", "yes"),
        ("none", "-"),
    ]


def test_names_with_values_are_rows_and_few_of_many_are_turned() -> None:
    many = {f"m{i}": i for i in range(6)}
    found = read(
        tables({"settings": {f"s{i}": {"n": i, "share": SHARE} for i in range(6)}, "sets": {"a": many}})
    )
    assert found["settings"][:2] == [["", "n", "share"], ["s0", "0", "0.500 [0.250, 0.750]"]]
    assert len(found["settings"]) == 7
    assert found["sets"] == [["", "a"], *([f"m{i}", str(i)] for i in range(6))]


def test_lists_of_rows_and_what_is_nested_in_them() -> None:
    points = [{"name": "24", "accuracy": SHARE}, {"name": "48", "accuracy": {"mean": "high"}}]
    found = read(tables({"benchmarks": {"sums": [{"method": "plain", "points": points}]}}))
    assert found == {
        "benchmarks / sums": [["method"], ["plain"]],
        "benchmarks / sums / plain / points": [
            ["name", "accuracy"],
            ["24", "0.500 [0.250, 0.750]"],
            ["48", ""],
        ],
    }


def test_there_is_an_end() -> None:
    html = tables({"rows": [{"a": i} for i in range(1_000)]})
    assert len(read(html)["rows"]) == MOST_ROWS + 1
    assert "960 more rows" in html
    html = tables({f"t{i}": {"a": 1, "b": 2} for i in range(100)})
    assert len(read(html)) == MOST_TABLES
    assert "more is in metrics.json" in html
