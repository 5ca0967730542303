"""The recipe of stage curate: what it can say, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.curate_config import CurateConfig
from data.recipe import RecipeError, load_recipe
from data.stage import configure


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("levels: ['4']\nmin_level: 4", "levels: give either a list or min_level"),
        ("min_level: 5\nmax_level: 4", "min_level 5, max_level 4: need min <= max"),
        ("min_level: hard", "min_level: 'hard' is not of type float"),
        ("drop_unmeasured: true", "drop_unmeasured: needs `attempts`"),
        ("unsolved: true", "unsolved: needs `attempts`"),
        ("min_thinking_tokens: 9\nmax_thinking_tokens: 5", "need 0 <= min <= max"),
        ("benchmark_weights: [aime]", "benchmark_weights: set `size`"),
        ("traces_per_problem: 0", "traces_per_problem: 0 is less than 1"),
        ("language: en\nmin_language_share: 1.5", "min_language_share: 1.5 is not above 0"),
        ("min_language_share: 0.9", "min_language_share: needs `language`"),
        (
            "require_thinking: false\nquality: [empty_thinking]",
            "keeps what quality rule empty_thinking drops",
        ),
        ("require_thinking: false\nmin_thinking_tokens: 9", "keeps what min_thinking_tokens 9 drops"),
        ("benchmark_weight: [aime]", "did you mean 'benchmark_weights'"),
    ],
)
def test_recipes_that_cannot_work_are_refused_when_parsed(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "curate.yaml"
    path.write_text(f"stage: curate\nproblems: pool\n{text}\n")
    with pytest.raises(RecipeError, match=message):
        configure(load_recipe(path), [CurateConfig], [])


def test_a_recipe_says_every_way_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "curate.yaml"
    text = "min_level: 2\ndrop_unmeasured: true\nattempts: [weak]\nlength_column: tokens\nsize: 9"
    path.write_text(f"stage: curate\nproblems: pool\n{text}\nbenchmark_weights: [aime]\n")
    _, (config,) = configure(load_recipe(path), [CurateConfig], ["--max_level", "4.5"])
    assert (config.min_level, config.max_level, config.length_column) == (2, 4.5, "tokens")
    assert (config.drop_unmeasured, config.benchmark_weights) == (True, ["aime"])
