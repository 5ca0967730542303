"""The card of a model: what it is, how it was made, numbers with intervals, commands, limits.

Everything in it is from manifests and metrics. Text from there is put on one line and escaped: it can neither
end the YAML front matter nor make Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data.stage import summary
from inference.scorers.reward_model import OPTIONS_FILE
from training.lineage import StageRecord, base_models, data_sources, is_hub_id
from training.local_names import LocalNames

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_LONGEST_CELL = 200
_ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|#"} | {"<": "&lt;", ">": "&gt;"})


def model_card(
    repo_id: str,
    model: StageRecord,
    made_by: Sequence[StageRecord],
    evaluations: Sequence[StageRecord],
    hidden: LocalNames,
    *,
    licence: str | None,
    adapter: bool,
) -> ModelCard:
    """The card of `model`.

    Args:
        made_by: the stages that it came from, inputs first, itself last.
        evaluations: finished stages with numbers.
    """
    from huggingface_hub import ModelCard, ModelCardData

    found = base_models(model, made_by)
    bases = [base if is_hub_id(base) else hidden.hide_text(base) for base in found]
    sources = data_sources(made_by)
    data = ModelCardData(
        base_model=[base for base in found if is_hub_id(base)] or None,
        datasets=sorted({each.hub for each in sources if each.hub}) or None,
        license=licence,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification" if (model.folder / OPTIONS_FILE).is_file() else "text-generation",
        tags=["slowthink", "reasoning", model.manifest["stage"]],
    )
    title = repo_id.rpartition("/")[2]
    parts = [
        [f"# {line(title)}", "", *_what(model, bases, hidden, adapter)],
        ["## How it was made", "", *_chain(made_by, hidden)],
        ["## Data", "", *_data(sources, hidden)],
        ["## Numbers", "", *_numbers(evaluations, hidden)],
        ["## Commands", "", *_commands(made_by, evaluations, hidden)],
        ["## Limits", "", *_limits(made_by, evaluations, licence)],
    ]
    body = "\n\n".join("\n".join(part) for part in parts)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def line(text: Any) -> str:
    """Any value as text on one line, which Markdown shows as it is."""
    short = " ".join(str(text).split())
    short = short if len(short) <= _LONGEST_CELL else short[:_LONGEST_CELL] + "…"
    return short.translate(_ESCAPED)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table."""
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(line(cell) for cell in row) + " |" for row in rows]


def _what(model: StageRecord, bases: list[str], hidden: LocalNames, adapter: bool) -> list[str]:
    start = f"It began with {line(', '.join(bases))}." if bases else "Its weights began at random."
    stage = hidden.hide(model.manifest["stage"])
    kind = "An adapter (PEFT)" if adapter else "A model"
    return [f"{kind} that stage `{stage}` of slowthink made. {start}"]


def _chain(records: Sequence[StageRecord], hidden: LocalNames) -> list[str]:
    rows = []
    for record in records:
        manifest = hidden.hide({key: value for key, value in record.manifest.items() if key != "host"})
        git = manifest["git"]
        commit = (git["commit"] or "unknown")[:12] + (" with changes" if git["dirty"] else "")
        seed = manifest.get("seed")
        inputs = ", ".join(manifest["inputs"]) or "nothing"
        numbers = summary(hidden.hide(record.metrics))
        rows.append(
            (record.name, manifest["stage"], inputs, "default" if seed is None else seed, commit, numbers)
        )
    versions = hidden.hide(records[-1].manifest["packages"])
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        *table(("stage", "kind", "from", "seed", "commit", "numbers"), rows),
        "",
        f"Versions: {line(used)}. `recipes/` has every stage's recipe, `manifests/` inputs and versions.",
    ]


def _data(sources: Sequence[Any], hidden: LocalNames) -> list[str]:
    if not sources:
        return ["The stages above name no data source."]
    rows = [(hidden.hide_text(each.name), each.hub, hidden.hide_text(each.licence)) for each in sources]
    return table(("source", "dataset", "licence"), rows)


def _numbers(evaluations: Sequence[StageRecord], hidden: LocalNames) -> list[str]:
    """Benchmarks with 95 % intervals over problems; other evaluations with what their metrics say."""
    rows, others = [], []
    for record in evaluations:
        recipe = hidden.hide(record.recipe)
        measured = recipe.get("model_name_or_path") or recipe.get("scorer_model") or "several"
        results = record.metrics.get("benchmarks")
        if not isinstance(results, dict):
            others.append((record.name, measured, summary(hidden.hide(record.metrics))))
            continue
        for benchmark, values in hidden.hide(results).items():
            for name, value in values.items():
                if isinstance(value, dict) and {"mean", "low", "high", "problems"} <= value.keys():
                    interval = f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
                    rows.append(
                        (record.name, measured, benchmark, name, interval, value["problems"], _how(recipe))
                    )
    if not evaluations:
        return ["Nothing was measured."]
    columns = ("stage", "model", "benchmark", "measure", "mean (95 % interval)", "problems", "how")
    lines = table(columns, rows) if rows else []
    return [
        *lines,
        *([""] if lines and others else []),
        *(table(("stage", "model", "numbers"), others) if others else []),
    ]


def _how(recipe: dict[str, Any]) -> str:
    keys = ("num_completions", "temperature", "top_p", "max_tokens", "prompt_style", "seed")
    return ", ".join(f"{key} {recipe[key]}" for key in keys if key in recipe) or "defaults"


def _commands(
    made_by: Sequence[StageRecord], evaluations: Sequence[StageRecord], hidden: LocalNames
) -> list[str]:
    """How every stage was run; hidden text has no line breaks or quotes that a shell would act on."""
    import shlex

    names = dict.fromkeys(record.name for record in (*made_by, *evaluations))
    single = [
        f"slowthink run recipes --only {shlex.quote(' '.join(hidden.hide_text(n).split()))}" for n in names
    ]
    shown = [each.replace("`", "'") for each in single]
    return ["All stages in order, or one by one:", "", "```", "slowthink run recipes", *shown, "```"]


def _limits(
    made_by: Sequence[StageRecord], evaluations: Sequence[StageRecord], licence: str | None
) -> list[str]:
    lines = [
        "- Intervals are over the problems of a benchmark; they say nothing of other seeds of training.",
        "- Thinking that ends in a right answer need not be right itself.",
        "- Nothing was tested but what the table of numbers names.",
    ]
    if not any("benchmarks" in record.metrics for record in evaluations):
        lines.append("- No benchmark was run on it.")
    if licence is None:
        lines.append(
            "- Its maker has named no licence; those of its base and of the data above apply to their parts."
        )
    own = made_by[-1].name
    if any(f"run:{own}" not in record.recipe.values() for record in evaluations):
        lines.append(
            f"- Numbers of another model than run:{line(own)} are of one that it came from or stands beside."
        )
    if any(record.manifest["git"]["dirty"] for record in made_by):
        lines.append("- The code had changes that are in no commit when it was made.")
    return lines
