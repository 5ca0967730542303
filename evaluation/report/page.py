"""The page of a run, in the order of a reader: what came of it, its claims and results, then stage by stage,
single completions, and how to make it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from data.figures import Picture, finite
from data.theme_svg import PICTURE_CSS
from evaluation.report.draft import Draft
from evaluation.report.effects_section import counted, effects_table, over_runs
from evaluation.report.environment import commands, environment
from evaluation.report.folder import FoundStage
from evaluation.report.markup import fact_tile, limited, line
from evaluation.report.overview import COSTS
from evaluation.report.page_file import document
from evaluation.report.pictures import effects_picture, run_pictures, stage_pictures
from evaluation.report.rejected import rejected_rows
from evaluation.report.report_style import REPORT, SCRIPT
from evaluation.report.rollout_style import CARDS
from evaluation.report.samples import rollout_groups, sampled_completions, search_trees
from evaluation.report.stage_section import log_end, stage_section
from evaluation.report.style import BASE, TABLES
from evaluation.report.summary import duration
from evaluation.report.tree_numbers import amount
from evaluation.report.tree_style import TREES

MOST_BYTES = 3 * 2**20
"""Of each of the sections that may be large, of which there are five: the page stays below 20 MiB."""
TELLING_STAGES = ("grpo", "test_time", "evaluate_prm", "evaluate_search", "compare")
"""Among the results stands the first picture of the first one of each kind, in this order."""
SAMPLED_STAGES = ("sample", "evaluate")
MOST_STAGES_SAMPLED = 6
MOST_PROBLEMS = 50


def page_text(draft: Draft) -> str:
    """The page as HTML; its figures are written on the way."""
    made = [(name, title, says, html) for name, title, says, make in _SECTIONS if (html := make(draft))]
    links = "".join(f"<a href='#{name}'>{title}</a>" for name, title, *_ in made)
    sections = "\n".join(
        f"<section id='{name}'><h2>{title}</h2><p class='says'>{says}</p>\n{html}</section>"
        for name, title, says, html in made
    )
    body = f"""<header>{_head(draft)}</header>
<nav class="links" aria-label="sections"><div>{links}</div></nav>
<main>
{_missing(draft)}{sections}
</main>
<footer><p class="quiet">Long texts are cut in the middle. Characters that are not seen are
<span class="odd">spelled out</span>.<br>Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p></footer>"""
    style = PICTURE_CSS + BASE + TABLES + CARDS + TREES + REPORT
    return document(f"{draft.name}: report", body, style, SCRIPT, drawings=True)


# ------------------------------------------------------------------ what came of it


def _head(draft: Draft) -> str:
    stages = [found for run in draft.runs.values() for found in run]
    finished = sum(found.status == "finished" for found in stages)
    others = list(_not_finished(draft))
    shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    verdict = f"Not whole: {shown}." if others else "Every stage finished."
    absent = sum(len(_absent(run)) for run in draft.runs.values())
    tiles = [
        ("stages", f"{finished} of {len(stages) + absent}", "finished"),
        _time(stages),
        ("tokens", amount(sum(map(_tokens, stages))), "generated, scored or trained on"),
        ("runs", f"{len(draft.runs)}", "with other seeds" if len(draft.runs) > 1 else "one seed"),
    ]
    if draft.effects:
        right = sum(row["verdict"] == "shown" for row in draft.effects)
        tiles.append(("claims shown", f"{right} of {len(draft.effects)}", counted(draft.effects)))
    numbers = "".join(fact_tile(*one) for one in tiles)
    return f"""<p class="made">slowthink · report of a run</p><h1>{line(draft.name)}</h1>
<p class="lead">{verdict if stages else "Nothing is here yet."}</p>
{f"<dl class='tiles'>{numbers}</dl>" if stages else ""}"""


def _time(stages: Sequence[FoundStage]) -> tuple[str, str, str]:
    """What the stages took one by one and, where several ran at once, all of them."""
    together = sum(found.seconds or 0 for found in stages)
    started, ended = (
        [time for found in stages if (time := found.time_of(key)) is not None] for key in ("started", "ended")
    )
    what = "of all stages together"
    if started and ended and (span := max(ended) - min(started)) < together - len(stages):  # whole seconds
        what += f"; {duration(max(0, span))} from the first start to the last end"
    return "time", duration(together), what


def _not_finished(draft: Draft) -> Iterator[str]:
    """What is not whole, in words; of the run that is shown in full without its name."""
    for run, stages in draft.runs.items():
        before = "" if run == draft.name else f"{run}/"
        for found in stages:
            if found.status != "finished":
                yield f"{line(before + found.name)} is {line(found.status, 24)}"
        yield from (f"{line(before + name)} is not there" for name in _absent(stages))


def _absent(stages: Sequence[FoundStage]) -> list[str]:
    """Stages that others read, and that the run does not have."""
    there = {found.name for found in stages}
    read = [name for found in stages for name in found.read_stages]
    return [name for name in dict.fromkeys(read) if name not in there] if len(there) > 1 else []


def _tokens(found: FoundStage) -> float:
    said = (found.tokens, finite(found.metrics.get("completion_tokens")))
    return next((tokens for tokens in said if tokens is not None), 0)


def _missing(draft: Draft) -> str:
    """What could not be read, where there is such a thing."""
    if not draft.problems:
        return ""
    shown = [
        f"<li><b>{line(where)}</b> {line(why, 400)}</li>" for where, why in draft.problems[:MOST_PROBLEMS]
    ]
    more = len(draft.problems) - MOST_PROBLEMS
    shown += [f"<li>and {more:,} more</li>"] if more > 0 else []
    return f"<section class='missing'><h2>What could not be read</h2><ul>{''.join(shown)}</ul></section>\n"


# ------------------------------------------------------------------ claims and results


def _claims(draft: Draft) -> str:
    if not draft.effects:
        return ""
    drawing = draft.figure(effects_picture(draft.effects), wide=True)
    return f"{effects_table(draft.effects)}<div class='pictures'>{drawing}</div>"


def _results(draft: Draft) -> str:
    figures = limited(_telling_figures(draft), MOST_BYTES, "figures")
    return f"<div class='pictures'>{figures}</div>" if figures else ""


def _telling_figures(draft: Draft) -> Iterator[str]:
    """Of the whole run, then one of each kind of stage that tells of a method; what it cost is last."""
    across = run_pictures(draft.stages)
    for picture in across:
        if picture.name != COSTS:
            yield draft.figure(picture)
    for kind in TELLING_STAGES:
        yield _first_figure(draft, kind)
    for picture in across:
        yield draft.figure(picture)  # which leaves out those that are there


def _first_figure(draft: Draft, kind: str) -> str:
    for place, found in enumerate(draft.stages):
        if found.stage == kind and (pictures := stage_pictures(found)):
            return draft.figure(pictures[0], f"Of <a href='#stage-{place}'>{line(found.name)}</a>.")
    return ""


def _over_runs(draft: Draft) -> str:
    return over_runs(draft.runs) if len(draft.runs) > 1 else ""


# ------------------------------------------------------------------ stages


def _stages(draft: Draft) -> str:
    places = {found.name: place for place, found in enumerate(draft.stages)}
    anchors = {name: f"<a href='#stage-{place}'>{line(name)}</a>" for name, place in places.items()}
    return limited((_stage(draft, found, places, anchors) for found in draft.stages), MOST_BYTES, "stages")


def _stage(draft: Draft, found: FoundStage, places: dict[str, int], anchors: dict[str, str]) -> str:
    figures = [_figure_or_link(draft, picture) for picture in stage_pictures(found)]
    rejected, log = "", ""
    with draft.trying(found.name):
        rejected = rejected_rows(found.folder)
    with draft.trying(found.name):
        log = log_end(found.folder)
    about = draft.about.get(found.stage, "")
    return stage_section(found, places[found.name], about, figures, rejected, log, anchors)


def _figure_or_link(draft: Draft, picture: Picture) -> str:
    there = f"<p><a href='#figure-{picture.name}'>{line(picture.title)}</a> is among the results</p>"
    return draft.figure(picture) or there


# ------------------------------------------------------------------ completions


def _rollouts(draft: Draft) -> str:
    return limited(_of_stages(draft, draft.stages, rollout_groups, "r"), MOST_BYTES, "groups")


def _completions(draft: Draft) -> str:
    sampled = [found for found in draft.stages if found.stage in SAMPLED_STAGES][:MOST_STAGES_SAMPLED]
    return limited(_of_stages(draft, sampled, sampled_completions, "c"), MOST_BYTES, "stages")


def _trees(draft: Draft) -> str:
    return limited(_of_stages(draft, draft.stages, search_trees, "t"), MOST_BYTES, "trees")


def _of_stages(
    draft: Draft, stages: Iterable[FoundStage], make: Callable[[FoundStage, str], Iterator[str]], letter: str
) -> Iterator[str]:
    """What is made of each stage, below its name. The letter and the stage's place begin all ids."""
    for place, found in enumerate(stages):
        pieces: list[str] = []
        with draft.trying(found.name):
            pieces += make(found, f"{letter}{place}")
        if pieces:
            yield f"<h3>{line(found.name)}</h3>"
            yield from pieces


def _again(draft: Draft) -> str:
    made_on, again = environment(draft.runs), commands(list(draft.runs.values()))
    return f"<div class='again'><h3>commands</h3>{again}<h3>environment</h3>{made_on}</div>"


_SECTIONS: tuple[tuple[str, str, str, Callable[[Draft], str]], ...] = (
    ("claims", "Claims", "What the literature claims, and what was measured here.", _claims),
    ("results", "Results", "Bars and bands are 95 % intervals.", _results),
    ("runs", "Over the runs", "The mean of all runs with its interval, then each run.", _over_runs),
    ("stages", "Stages", "Each opens to its numbers, figures, recipe and command.", _stages),
    (
        "rollouts",
        "Rollouts",
        "A group of the first, the middle and the last step of RL. All of a step: "
        "<code>slowthink show STAGE --rollouts --step N --html FILE</code>",
        _rollouts,
    ),
    (
        "completions",
        "Completions",
        "The first one of a stage that is right, that is wrong, that was cut off.",
        _completions,
    ),
    (
        "trees",
        "Search trees",
        "A problem about which the settings disagree. Others: "
        "<code>slowthink show STAGE --tree --problem N</code>",
        _trees,
    ),
    ("again", "Environment", "What it was made on, and the commands that make it again.", _again),
)
"""In the order of a reader: id, title, what it shows as HTML, and what makes it."""
