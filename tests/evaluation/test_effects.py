"""Stage effects on folders of the stages that it reads."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.recipe import load_recipe, references
from data.stage import configure
from data.store import read_json, write_json
from evaluation import evaluate_search as search_stage
from evaluation.effects import Effect, EffectsConfig, combine, effects, measure, t_interval, verdict
from evaluation.evaluate_search import EvaluateSearchConfig
from evaluation.problem_values import ProblemValues, read_problem_values, write_setting_values
from evaluation.search_curves import load_searches, options_of
from launch.stages import find_stage
from tests.evaluation.evaluations import evaluation
from tests.evaluation.search_rows import world, write

WEIGHTED = "weighted_best_of_n"


def entry(better: dict, than: dict, name: str = "one", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "claim": f"Claim of {name}",
        "source": "A paper, section 1",
        "better": better,
        "than": than,
        **more,
    }


def run(folder: Path, *entries: dict) -> dict[str, dict[str, Any]]:
    """The rows of effects.json by name."""
    effects(EffectsConfig(effects=list(entries)), folder)
    return {row["name"]: row for row in read_json(folder / "effects.json")["effects"]}


def one(folder: Path, better: dict, than: dict, **more: Any) -> dict[str, Any]:
    return run(folder, entry(better, than, **more))["one"]


def of(folder: Path, **more: Any) -> dict[str, Any]:
    return {"evaluation": str(folder), **more}


# ------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower", "not_lower"),
    [
        (0.1, 9.0, "shown", "opposite", "shown"),
        (0.0, 9.0, "not shown", "not shown", "shown"),
        (-2.9, 9.0, "not shown", "not shown", "shown"),
        (-3.0, 9.0, "not shown", "not shown", "not shown"),
        (-9.0, -0.1, "opposite", "shown", "not shown"),
        (-9.0, -3.0, "opposite", "shown", "not shown"),
        (-9.0, -3.1, "opposite", "shown", "opposite"),
        (0.0, 0.0, "not shown", "not shown", "shown"),
    ],
)
def test_verdicts(low: float, high: float, higher: str, lower: str, not_lower: str) -> None:
    found = {"mean": (low + high) / 2, "low": low, "high": high}
    assert verdict(found) == higher
    assert verdict(found, "lower") == lower
    assert verdict(found, "not_lower", 3) == not_lower


def test_sides_that_change_places_change_the_verdict(tmp_path: Path) -> None:
    weak, strong = (evaluation(tmp_path / name, [0.0, share] * 30) for name, share in (("a", 0), ("b", 1)))
    there, back = one(tmp_path, of(strong), of(weak)), one(tmp_path, of(weak), of(strong))
    assert (there["verdict"], back["verdict"]) == ("shown", "opposite")
    assert there["difference"]["mean"] == -back["difference"]["mean"] == 50
    assert there["difference"]["low"] == pytest.approx(-back["difference"]["high"], abs=1.5)
    assert there["better"] == back["than"]
    assert one(tmp_path, of(weak), of(strong), claim_is="lower")["verdict"] == "shown"


def test_what_differs_by_chance_alone_is_seldom_shown_and_a_real_effect_nearly_always(tmp_path: Path) -> None:
    """Two evaluations of one model are different draws: about 5 % of all differences are taken for effects.
    Fifteen points more, on the same problems, are found."""
    rng = random.Random(2)
    found: dict[str, list[str]] = {"null": [], "real": []}
    for number in range(50):
        rates = [rng.random() for _ in range(60)]
        base, same, more = (
            evaluation(
                tmp_path / f"{number}_{name}",
                [sum(rng.random() < rate + gain for _ in range(4)) / 4 for rate in rates],
            )
            for name, gain in (("base", 0.0), ("same", 0.0), ("more", 0.15))
        )
        for name, other in (("null", same), ("real", more)):
            effect = Effect(**entry(of(other), of(base)))
            found[name].append(measure(effect)["verdict"])
    assert found["null"].count("not shown") >= 43
    assert found["real"].count("shown") >= 43
    assert "opposite" not in found["real"]


# ------------------------------------------------------------------ sides


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of stages search and evaluate_search."""
    folder = tmp_path_factory.mktemp("searched")
    source = write(folder / "search", world(40))
    config = EvaluateSearchConfig(searches=[source], bins=2, costs=["generated_tokens", "flops"])
    (folder / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_stage, "write_plots", lambda folder, results: None)
        metrics = search_stage.evaluate_search(config, folder / "out")
    assert not any("ways" in row for found in metrics["compute_optimal"].values() for row in found["budgets"])
    write_json(folder / "out" / "metrics.json", metrics)
    return source, str(folder / "out")


def test_evaluations_are_compared_by_problem_in_percent_or_tokens(tmp_path: Path) -> None:
    votes: Any = {"maj@4": [0.0, 1.0, 1.0, 1.0]}
    base = evaluation(
        tmp_path / "07_base",
        [0.0, 1.0, 0.5, 0.5],
        language_share=[0.5, None, 0.25, 1.0],
        thinking_tokens=[10, 20, 30, 40],
        completion_tokens=[20, 30, 40, 50],
        **votes,
    )
    turned = evaluation(
        tmp_path / "09_rl",
        [1.0, 1.0, 1.0, 0.5],
        ids=["p3", "p2", "p1", "p0"],
        language_share=[1.0, 0.5, 1.0, None],
        thinking_tokens=[45, 35, 25, 15],
    )
    rows = run(
        tmp_path,
        entry(of(turned, label="after RL"), of(base), name="accuracy"),
        entry(of(base, metric="maj@4"), of(base), name="votes"),
        *(
            entry(of(turned, metric=metric), of(base, metric=metric), name=metric)
            for metric in ("thinking_tokens", "language_share")
        ),
    )
    accuracy, votes, tokens, language = rows.values()
    assert (accuracy["better"]["label"], accuracy["than"]["label"]) == ("after RL", "07_base")
    assert (accuracy["better"]["mean"], accuracy["than"]["mean"]) == (87.5, 50)
    assert (accuracy["difference"]["mean"], accuracy["unit"], accuracy["problems"]) == (37.5, "points", 4)
    assert accuracy["than"]["cost"] == {"generated_tokens": 35}
    assert (votes["metric"], votes["difference"]["mean"]) == ("maj@4 - accuracy", 25)
    assert votes["better"]["cost"] == {"generated_tokens": 140}
    assert tokens["difference"] == {"mean": 5, "low": 5, "high": 5}
    assert (tokens["unit"], tokens["verdict"]) == ("tokens", "shown")
    assert language["problems"] == 2  # p2 and p3, of which both evaluations know it
    assert language["difference"]["mean"] == pytest.approx(100 * (1.5 - 1.25) / 2)
    page = (tmp_path / "effects.md").read_text()
    assert "| Claim of votes | A paper, section 1 | 75.0 (07_base, maj@4) | 50.0 (07_base) | +25.0 [" in page


def test_settings_of_a_search(searched: tuple[str, str], tmp_path: Path) -> None:
    search, _ = searched
    options = {option.name: option for option in options_of(load_searches([search]))}
    beam, sampled = options["beam n=8 width=4"], options["best_of_n n=8"]
    sides = (
        {"search": search, "option": beam.name, "choice": WEIGHTED},
        {"search": search, "option": sampled.name, "choice": WEIGHTED},
    )
    row = one(tmp_path, *sides)
    differences = 100 * (beam.right(WEIGHTED) - sampled.right(WEIGHTED))
    assert row["difference"]["mean"] == pytest.approx(differences.mean())
    spread = 1.96 * differences.std() / 40**0.5
    assert row["difference"]["low"] == pytest.approx(differences.mean() - spread, abs=2)
    assert row["verdict"] == "shown"
    # 12 tokens a candidate of the beam, 10 of the others
    assert row["better"]["cost"]["generated_tokens"] == 96
    assert (row["than"]["cost"]["generated_tokens"], row["note"]) == (80, "")
    dearer = one(tmp_path, *sides, at_most_cost="generated_tokens")
    assert (dearer["verdict"], dearer["note"]) == ("not shown", "96 against 80 generated tokens")
    assert dearer["difference"] == row["difference"]
    least = {"search": search, "option": "best_of_n n=1", "choice": "majority"}
    single = one(tmp_path, sides[0], least, at_most_cost="generated_tokens")
    assert single["than"]["mean"] == pytest.approx(
        100 * options["majority n=1"].right("majority").mean(), abs=9
    )
    assert one(tmp_path, sides[1], sides[0], at_most_cost="flops")["verdict"] == "opposite"


def test_ways_to_choose_a_search(searched: tuple[str, str], tmp_path: Path) -> None:
    """Their per-problem values come to the means that the stage itself reports."""
    folder = Path(searched[1])
    curve = read_json(folder / "metrics.json")["compute_optimal"]["flops"]["budgets"]

    def side(way: str, **more: Any) -> dict[str, Any]:
        return {"evaluate_search": str(folder), "way": way, "unit": "flops", **more}

    row = one(tmp_path, side("oracle_bins"), side("fixed"), at_most_cost="flops")
    for key, way in (("better", "oracle_bins"), ("than", "fixed")):
        assert row[key]["mean"] == pytest.approx(100 * np.mean([each[way]["mean"] for each in curve]))
        assert row[key]["cost"]["flops"] == pytest.approx(np.mean([each[way]["mean_cost"] for each in curve]))
    assert row["difference"]["mean"] > 0
    last = curve[-1]
    row = one(
        tmp_path,
        side("model_bins", budget=last["budget"]),
        side("bound", budget=last["budget"]),
        claim_is="lower",
    )
    assert row["better"]["mean"] == pytest.approx(100 * last["model_bins"]["mean"])
    assert row["than"]["mean"] == pytest.approx(100 * last["bound"]["mean"])
    assert row["than"]["cost"] is None
    assert row["difference"]["high"] <= 0


def test_settings_of_test_time_and_other_stages_on_the_same_problems(tmp_path: Path) -> None:
    base = evaluation(tmp_path / "base", [1.0, 0.0] * 20)
    ids = read_json(base / "problem_values.json")["benchmarks"]["sums"]["ids"]

    def found(accuracy: list[float | None], tokens: float) -> ProblemValues:
        values = {
            "accuracy": accuracy,
            "thinking_tokens": [tokens] * 40,
            "completion_tokens": [tokens + 5] * 40,
        }
        return ProblemValues(settings={}, ids={"sums": ids}, values={"sums": values})

    folder = tmp_path / "10_test_time"
    settings = {"plain": found([1.0, 0.0] * 20, 30), "budget forcing: Wait x 2": found([0.0] * 40, 60)}
    write_setting_values(folder, settings)
    plain, waits = ({"test_time": str(folder), "setting": title} for title in settings)
    row = one(tmp_path, waits, plain)
    assert (row["verdict"], row["difference"]["mean"]) == ("opposite", -50)
    assert [row[key]["cost"]["generated_tokens"] for key in ("better", "than")] == [65, 35]
    null = one(tmp_path, plain, of(base))
    assert null["verdict"] == "not shown"
    assert null["difference"]["low"] < 0 < null["difference"]["high"]
    kept = one(tmp_path, plain, of(base), claim_is="not_lower", margin=10)
    assert (kept["verdict"], kept["margin"]) == ("shown", 10)
    tokens = [{**side, "metric": "thinking_tokens"} for side in (waits, plain)]
    assert one(tmp_path, *tokens)["difference"] == {"mean": 30, "low": 30, "high": 30}


def test_terminal_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        evaluation(tmp_path / name, accuracy) for name, accuracy in (("a", [0.0] * 20), ("b", [1.0] * 20))
    ]
    rising, falling = map(of, reversed(folders)), map(of, folders)
    entries = [entry(*rising, name="up"), entry(*falling, name="down", claim="100 [red]%[/] of it | all")]
    metrics = effects(EffectsConfig(effects=entries), tmp_path)
    assert metrics == {"shown": 1, "not shown": 0, "opposite": 1, "up": 100, "down": -100}
    shown = capsys.readouterr().out
    assert "100 [red]%[/] of it" in shown
    assert "-100.0 [-100.0, -100.0]" in shown
    assert "100 [red]%[/] of it \\| all" in (tmp_path / "effects.md").read_text()


def test_stages_of_the_pipeline_are_inputs(tmp_path: Path) -> None:
    for name in ("07_base", "09_rl"):
        (tmp_path / f"{name}.yaml").write_text("stage: evaluate\n")
    better, than = ({"evaluation": f"run:{name}", "metric": "pass@4"} for name in ("09_rl", "07_base"))
    path = tmp_path / "20_effects.yaml"
    path.write_text(yaml.safe_dump({"stage": "effects", "effects": [entry(better, than)], "seed": 1}))
    recipe = load_recipe(path)
    assert references(recipe) == ["09_rl", "07_base"]
    _, (config,) = configure(recipe, find_stage("effects").config_classes(), [])
    (effect,) = config.parsed()
    assert Path(effect.better["evaluation"]).parts[-2:] == (tmp_path.name, "09_rl")


# ------------------------------------------------------------------ mistakes

A, B = {"evaluation": "a"}, {"evaluation": "b"}
CHOICE = {"evaluate_search": "a", "way": "fixed"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "effects: give at least one"),
        (["r1"], r"effects\[0\]: 'r1' is no mapping; give name, claim"),
        ([entry(A, B), entry(A, B)], "effects: 2 are called 'one'"),
        ([entry(A, B, name="R1 zero")], "name: 'R1 zero' may have"),
        ([entry(A, B, clam="x")], r"effects\[0\]: one: an effect has no 'clam'; did you mean 'claim'"),
        ([{"name": "x", "claim": "y", "better": A, "than": B}], r"x: source is missing"),
        ([entry(A, B, source=" ")], "source: is empty"),
        ([entry(A, A)], "than: is the same as better"),
        ([entry(A, {**A, "metric": "accuracy"})], "than: is the same as better"),
        ([entry(A, B, claim_is="highr")], "claim_is: 'highr' is not one of 'higher'"),
        ([entry(A, B, claim_is="not_lower")], "margin: claim_is not_lower needs one"),
        ([entry(A, B, margin=3)], "margin: claim_is not_lower needs one, and no other"),
        ([entry(A, B, claim_is="not_lower", margin=0)], "margin: 0 must be above 0"),
        ([entry(A, B, at_most_cost="tokens")], "at_most_cost: 'tokens' is not .*'generated_tokens', 'flops'"),
        ([entry(A, {"evaluations": "b"})], "than: evaluations names 0 kinds; did you mean 'evaluation'"),
        ([entry({}, B)], "better: nothing names 0 kinds; give one of evaluation, test_time, search"),
        ([entry(A, {**A, **CHOICE})], "names 2 kinds; give one of"),
        ([entry(A, {**B, "metrc": "pass@4"})], "than: evaluation has no 'metrc'; did you mean 'metric'"),
        ([entry(A, {**B, "metric": "acc"})], "metric: 'acc' is not one of accuracy"),
        ([entry(A, {"test_time": "b"})], "than: setting is missing"),
        (
            [entry(A, {"search": "b", "option": "x", "choice": "weighted"})],
            "choice: 'weighted' is not one of",
        ),
        ([entry(A, {**CHOICE, "budget": "all"})], "than: budget: 'all' is not"),
    ],
)
def test_mistakes_of_a_recipe_are_named(entries: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EffectsConfig(effects=entries)


def test_what_cannot_be_measured_is_named(searched: tuple[str, str], tmp_path: Path) -> None:
    base, other = evaluation(tmp_path / "a", [0, 1]), evaluation(tmp_path / "b", [0, 1, 1])
    search = {"search": searched[0], "option": "beam n=4 width=4", "choice": WEIGHTED}
    choice = {"evaluate_search": searched[1], "way": "fixed"}
    write_setting_values(tmp_path / "10_test_time", {"budget forcing: Wait x 1": read_problem_values(base)})
    waits = {"test_time": str(tmp_path / "10_test_time"), "setting": "Wait x 1"}
    cases = [
        ((of(base), of(other)), r"one: better \(a, 2\) is of other .* than than \(b, 3\): lacks 1 \(p2\)"),
        ((search, of(base)), "lacks 2 .p0, p1., has 40 .p000, p001, p002, .... beside; measure both on one"),
        ((of(base), of(tmp_path / "c")), "c is no run folder"),
        (
            (of(base), of(base, metric="thinking_tokens")),
            "metric: accuracy and thinking_tokens have other units",
        ),
        ((of(base, metric="pass@8"), of(base)), r"a did not measure pass@8 of sums.*add its k"),
        ((of(base, benchmark="sum"), of(other)), "benchmark: 'sum' is not in a; there are sums"),
        (
            ({"test_time": str(base), "setting": "x"}, of(base)),
            r"a has no setting_values\.json, which stage test",
        ),
        ((waits, of(base)), "setting: 'Wait x 1' is not in .*did you mean 'budget forcing: Wait x 1'"),
        (
            (search, {**search, "option": "beam n=4"}),
            "'beam n=4' is not in .*did you mean 'beam n=4 width=4'",
        ),
        ((search, {**search, "option": "majority n=4"}), "choice: 'majority n=4' has no scores; its only"),
        ((search, {**choice, "budget": 7.0}), r"budget: 7.0 is not on the curve of .*; there are 10.5, 21"),
        (
            (search, {**choice, "unit": "seconds"}),
            "unit: 'seconds' is not in .*there are 'generated_tokens', 'flops'",
        ),
        (
            (search, {**choice, "evaluate_search": str(base)}),
            r"a has no choices\.json, which stage evaluate_search",
        ),
    ]
    for sides, message in cases:
        with pytest.raises(ValueError, match=message):
            one(tmp_path / "out", *sides)
    with pytest.raises(ValueError, match="at_most_cost: flops of a is not known, but generated_tokens"):
        one(tmp_path / "out", of(base), of(base, metric="formatted"), at_most_cost="flops")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ seeds


def row(mean: float, name: str = "one", **more: Any) -> dict[str, Any]:
    side = {"label": "x", "mean": 50.0, "low": 40.0, "high": 60.0, "cost": None}
    found = {"mean": mean, "low": mean - 2, "high": mean + 2}
    return {
        **{key: text for key, text in entry({}, {}, name).items() if key not in ("better", "than")},
        "metric": "accuracy",
        "unit": "points",
        "claim_is": "higher",
        "margin": None,
        "at_most_cost": None,
        "better": side,
        "than": side,
        "difference": found,
        "verdict": verdict(found),
        "note": "",
        **more,
    }


def test_a_claim_is_shown_where_every_seed_shows_it() -> None:
    def over(*means: float) -> dict[str, Any]:
        (found,) = combine({f"seed{i}": [row(mean)] for i, mean in enumerate(means)})
        return found

    assert (over(5, 6, 7)["verdict"], over(5, 6, 7)["note"]) == ("shown", "")
    assert over(-5, -6, -7)["verdict"] == "opposite"
    mixed = over(5, 1, 7)
    assert (mixed["verdict"], mixed["note"]) == ("not shown", "shown on 2, not shown on 1 of 3 seeds")
    assert over(5, -5)["note"] == "shown on 1, opposite on 1 of 2 seeds"
    assert [(each["run"], each["difference"]["mean"]) for each in mixed["seeds"]] == [
        ("seed0", 5),
        ("seed1", 1),
        ("seed2", 7),
    ]
    far = over(5, 50)["note"]
    assert far == "shown on each of 2 seeds, but the interval over seeds holds 0"
    assert over(-5, -50)["note"].startswith("opposite on each of 2 seeds, but")
    as_good = [row(mean, claim_is="not_lower", margin=4, verdict="shown") for mean in (0, 20)]
    (found,) = combine({f"seed{i}": [each] for i, each in enumerate(as_good)})
    assert (found["verdict"], found["note"].rsplit(" ", 1)[1]) == ("shown", "-4")
    single = over(5)
    assert (single["mean"], single["low"], single["high"], single["verdict"]) == (5, None, None, "shown")


def test_the_interval_over_seeds_is_students() -> None:
    found = t_interval([5.0, 6.0, 10.0])
    assert found is not None
    # mean 7, standard deviation 7 ** 0.5, t of 2 degrees of freedom 4.302653 (tables)
    half = 4.302653 * (7 / 3) ** 0.5
    assert found == pytest.approx((7 - half, 7 + half), rel=1e-6)
    assert t_interval([5.0]) is None


def test_claims_that_runs_do_not_share_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    first = [row(5, "same"), row(5, "alone"), row(5, "reworded")]
    second = [row(6, "reworded", claim="Another text"), row(7, "same")]
    found = combine({"seed0": first, "seed1": second})
    assert [(each["name"], each["mean"]) for each in found] == [("same", 6)]
    assert "not the same in all of ['seed0', 'seed1'], left out: alone, reworded" in caplog.text
    assert combine({}) == []


def test_a_claim_against_two_pairs_of_sides_is_two_rows() -> None:
    other: dict[str, Any] = {side: {**row(9)[side], "label": f"small {side}"} for side in ("better", "than")}
    found = combine({f"seed{i}": [row(5), row(9, "one", **other)] for i in range(2)})
    assert [each["mean"] for each in found] == [5, 9]
