from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.recipe import load_pipeline, load_recipe
from data.rollouts import Rollout, write_rollouts
from data.stage_help import field_documents
from launch.cli import main
from launch.pipeline import check_stage, stage_command
from launch.stages import STAGES, find_stage

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "trl", "datasets", "pyarrow", "numpy")


def modules_after(*arguments: str) -> set[str]:
    """Which heavy modules a `slowthink` call loads."""
    code = (
        "import sys; from launch.cli import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("LOADED")
    return set(last.split()[1:])


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of one collect stage that has run. Returns its recipe folder."""
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    recipes = tmp_path / "recipes" / "tiny"
    recipes.mkdir(parents=True)
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1+1?", "answer": "2"}\n')
    source = f"{{path: {tmp_path / 'q.jsonl'}, role: train, licence: MIT}}"
    (recipes / "01_collect.yaml").write_text(f"stage: collect\nsources:\n  - {source}\n")
    assert main(["run", str(recipes)]) == 0
    return recipes


def test_help_and_show_load_nothing_heavy(finished_run: Path, tmp_path: Path) -> None:
    assert modules_after("--help") == set()
    assert modules_after("show", str(tmp_path / "runs" / "tiny")) == set()
    assert modules_after("show", str(tmp_path / "runs" / "tiny" / "01_collect")) == set()
    assert modules_after("doctor", "rewards") == set()


def test_show_rollouts_loads_what_reads_tables_and_no_more(tmp_path: Path) -> None:
    texts = dict.fromkeys(("id", "question", "answer", "prompt", "text", "extracted", "rule"), "x")
    numbers: dict[str, Any] = {
        "step": 0,
        "group": 0,
        "index": 0,
        "tokens": 1,
        "advantage": 0.0,
        "reward": 1.0,
    }
    flags = dict.fromkeys(("truncated", "formatted", "useful", "trained"), True)
    rollout = Rollout(
        **texts, **numbers, **flags, language_share=None, verdict="correct", rewards={"accuracy": 1.0}
    )
    write_rollouts(tmp_path, 0, [rollout])
    page = tmp_path / "page.html"
    for more in ([], ["--html", str(page)]):
        assert modules_after("show", str(tmp_path), "--rollouts", *more) <= {"pyarrow", "numpy"}
    assert page.is_file()
    assert modules_after("show", str(tmp_path), "--rollouts", "--step", "1") == set()


def test_a_rerun_does_and_loads_nothing(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "runs" / "tiny" / "01_collect" / "manifest.json"
    before = manifest.read_bytes()
    assert modules_after("run", str(finished_run)) == set()
    assert main(["run", str(finished_run)]) == 0
    assert "= 01_collect: finished" in capfd.readouterr().out
    assert manifest.read_bytes() == before


def test_dry_run_of_a_light_stage_loads_no_torch(finished_run: Path) -> None:
    assert modules_after("run", str(finished_run), "--dry-run") & {"torch", "transformers"} == set()


def test_show_prints_status_and_numbers(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["show", str(tmp_path / "runs" / "tiny")]) == 0
    shown = capsys.readouterr().out
    assert "01_collect" in shown
    assert "finished" in shown
    assert "1 -> 1 rows" in shown
    assert main(["show", str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m launch.cli collect --help | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("collect: many sources to one schema")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("stage: colect\n", "'colect' is not a stage; did you mean 'collect'"),
        ("stage: collect\nsource: []\n", "unknown key 'source'.*did you mean 'sources'"),
        (
            "stage: collect\nlaunch: zero3\nsources: [{id: gsm8k}]\n",
            "launch: stage 'collect' runs as one process",
        ),
        ("stage: collect\nsources: [{path: absent.jsonl, role: train}]\n", "absent.jsonl"),
        ("stage: collect\nsources: [{path: q.jsonl, rol: train}]\n", "rol"),
    ],
)
def test_mistakes_exit_with_2_and_leave_nothing_finished(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recipe: str,
    message: str,
) -> None:
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    (tmp_path / "01_collect.yaml").write_text(recipe)
    assert main(["run", str(tmp_path)]) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ("num_procesess: 2", "accelerate has no option 'num_procesess'; did you mean 'num_processes'"),
        ("restart: 2", "accelerate has no option 'restart'; did you mean 'restarts'"),
        ("mixed_precision: no", 'write "no" in quotes'),
        ("num_processes: two", "num_processes: 'two' is not a number of at least 1"),
        ("restarts: twice", "restarts: 'twice' is not a number of at least 0"),
        ("stall_seconds: 10m", "stall_seconds: '10m' is not a number of at least 0"),
        ("multi_gpu: true", "multi_gpu is a switch; write a file of launch/accelerate"),
    ],
)
def test_options_that_the_launcher_does_not_have(tmp_path: Path, launch: str, message: str) -> None:
    (tmp_path / "01_sft.yaml").write_text(f"stage: sft\nlaunch: {{config: ddp, {launch}}}\n")
    with pytest.raises(ValueError, match=f"01_sft.yaml: launch: .*{message}"):
        stage_command(load_recipe(tmp_path / "01_sft.yaml"))


def test_options_of_the_launcher_reach_it(tmp_path: Path) -> None:
    (tmp_path / "01_sft.yaml").write_text("stage: sft\nlaunch: {config: zero2, gradient_clipping: 0.5}\n")
    command = stage_command(load_recipe(tmp_path / "01_sft.yaml"))
    assert command[command.index("--gradient_clipping") + 1] == "0.5"


def test_unknown_launch_config_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "01_sft.yaml").write_text("stage: sft\nlaunch: zero4\n")
    (recipe,) = load_pipeline(tmp_path)
    with pytest.raises(ValueError, match=r"no launch config 'zero4'; there are cpu, .*zero3"):
        stage_command(recipe)


def test_training_starts_through_accelerate_with_the_recipes_options(tmp_path: Path) -> None:
    (tmp_path / "01_sft.yaml").write_text(
        "stage: sft\nlaunch: {config: zero3, num_machines: 2, num_processes: 16}\n"
    )
    (recipe,) = load_pipeline(tmp_path)
    command = " ".join(stage_command(recipe, ["--learning_rate", "2e-5"]))
    assert "launch.accelerated --config_file" in command
    assert "zero3.yaml --num_machines 2 --num_processes 16 -m training.sft --config" in command
    assert command.endswith("--learning_rate 2e-5")


def test_only_and_from_choose_stages(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(finished_run), "--only", "02_absent"]) == 2
    assert "no stage '02_absent'; stages: 01_collect" in capsys.readouterr().err
    assert main(["run", str(finished_run), "--from", "01_collect"]) == 0
    assert main(["run", str(finished_run), "--from", "01_collect", "--only", "01_collect"]) == 2
    assert "give one of the two" in capsys.readouterr().err


def test_several_stages_may_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the pipeline."""
    options = ["--only", "04_sft", "--only", "03_curate"]
    assert main(["run", str(ROOT / "recipes/s1"), "--dry-run", *options]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told[::2]] == ["03_curate", "04_sft"]


def test_recipe_of_another_stage_is_refused(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", "--config", str(finished_run / "01_collect.yaml")]) == 2
    assert "run `slowthink collect`" in capsys.readouterr().err


def test_every_stage_imports_its_configs() -> None:
    for name in STAGES:
        classes = find_stage(name).config_classes()
        fields = [f for cls in classes for f in cls.__dataclass_fields__]
        assert len(fields) == len(set(fields)), f"{name}: two config classes share a field"


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("recipes/*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_recipe_parses_against_its_own_stage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_stage(load_recipe(path))


def test_every_recipe_folder_has_a_readme() -> None:
    for folder in ROOT.glob("recipes/*"):
        assert (folder / "README.md").is_file(), folder


@pytest.mark.parametrize("stage", STAGES)
def test_stage_help_explains_every_key(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage, "--help"]) == 0
    shown = capsys.readouterr().out
    own = STAGES[stage].config_classes()[0]
    documents = field_documents(own)
    for field in own.__dataclass_fields__:
        assert f"  {field}\n" in shown
        assert documents[field], f"{own.__name__}.{field} has no docstring"
    if stage == "sft":
        assert "  learning_rate\n" in shown
