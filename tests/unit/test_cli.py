"""The command line: quick help, every command, machine-readable output, and the schema that editors use."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support import BACKBONES, ROOT, TECHNIQUES
from typer.main import get_command
from typer.testing import CliRunner, Result

from engine import registry
from engine.cli import app
from engine.plan import Plan
from engine.technique import Technique

COMMANDS = ("run", "plan", "check", "prepare", "techniques", "backbones", "schema", "new")
SPECS = sorted((ROOT / "specs").glob("**/*.yaml"))
MAIN = ROOT / "specs" / "toca_opensora.yaml"
PROFILES = ("embedded", "paper", "scale")
HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic", "yaml", "PIL", "imageio")


def engine(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    """Standard output of a command that must succeed."""
    result = engine(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def in_json(*arguments: str | Path) -> Any:
    return json.loads(done(*arguments))


def problems(*arguments: str | Path) -> str:
    """Standard error of a command that must refuse, and print nothing else."""
    result = engine(*arguments)
    assert (result.exit_code, result.stdout) == (2, "") and "Traceback" not in result.output
    return result.stderr


# Help


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, runpy\n"
        "sys.argv = ['engine', '--help']\n"
        "try:\n    runpy.run_module('engine', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage:" in ended.stdout and all(f" {command} " in ended.stdout for command in COMMANDS)
    assert ended.stderr.strip() == "[]"


def test_every_command_is_known_here() -> None:
    assert set(get_command(app).commands) == set(COMMANDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_its_options(command: str) -> None:
    assert "Usage:" in done(command, "--help")
    described = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert described.help
    for parameter in described.params:
        assert parameter.name == "help" or parameter.help, parameter.name


def test_no_command_shows_the_help_and_an_unknown_one_the_nearest() -> None:
    assert "Usage:" in engine().output
    result = engine("runn", MAIN)
    assert result.exit_code == 2 and "No such command 'runn'" in result.stderr and "run" in result.stderr


# Plans and checks


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", PROFILES)
def test_shipped_specs_are_good(path: Path, profile: str) -> None:
    assert done("check", path, "--profile", profile).startswith(f"ok: {path} (")


def test_check_takes_many_specs() -> None:
    assert done("check", *SPECS).count("ok: ") == len(SPECS)


def test_plan_in_json_is_canonical_and_the_same_every_time() -> None:
    first, second = (done("plan", MAIN, "--profile", "scale", "--json") for _ in range(2))
    assert first == second == json.dumps(json.loads(first), indent=2, sort_keys=True) + "\n"
    assert Plan.model_validate_json(first).canonical() == first


def test_plan_does_not_depend_on_the_order_of_keys_or_on_files(tmp_path: Path) -> None:
    spec = {"extends": "models/opensora.yaml", "techniques": [{"toca": {"interval": 3, "cross_interval": 6}}]}
    plans = set()
    for name, keys in (("a", list(spec)), ("b", list(spec)[::-1])):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "x.yaml"
        path.write_text(yaml.safe_dump({key: spec[key] for key in keys}, sort_keys=False))
        plans.add(done("plan", path, "--profile", "scale", "--json"))
    assert len(plans) == 1


def test_plan_for_readers_names_phases_and_cost() -> None:
    shown = done("plan", MAIN, "--profile", "scale")
    assert all(word in shown for word in ("toca", "partial", "MACs: baseline", "Memory: weights"))


def test_set_and_profile_change_the_plan() -> None:
    plan = in_json("plan", MAIN, "--profile", "scale", "--set", "sampler.rflow.steps=7", "--set", "seed=5", "--json")
    assert (plan["seed"], len(plan["steps"]), plan["weights"], plan["profile"]) == (5, 7, "random", "scale")


# Lists


def test_techniques_in_json_tell_what_readers_need() -> None:
    facts = {fact["slug"]: fact for fact in in_json("techniques", "--json")}
    assert set(facts) == set(TECHNIQUES)
    for slug, fact in facts.items():
        assert {"slug", "paper", "family", "stage", "backbones", "dynamic", "deviations"} <= set(fact)
        assert fact["backbones"] and set(fact["backbones"]) <= set(BACKBONES)
        assert fact["stage"] == TECHNIQUES[slug].stage.name and isinstance(fact["dynamic"], bool)
        assert all(entry["description"] for entry in fact["parameters"].values()), slug


@pytest.mark.parametrize("slug", sorted(TECHNIQUES))
def test_one_technique(slug: str) -> None:
    [fact] = in_json("techniques", slug, "--json")
    assert fact["slug"] == slug
    assert slug in done("techniques", slug) and slug in done("techniques")


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_backbones(name: str) -> None:
    [fact] = in_json("backbones", name, "--json")
    assert fact["name"] == name and fact["sites"] and "prompts" in fact["inputs"]
    assert name in {entry["name"] for entry in in_json("backbones", "--json")}
    assert "num_frames" in done("backbones", "opensora") and name in done("backbones")


def test_unknown_names_get_the_nearest() -> None:
    assert (
        problems("techniques", "tocca") == "error: SLUG: there is no technique `tocca`\n    -> did you mean `toca`?\n"
    )
    assert problems("backbones", "open-sora").endswith("-> did you mean `opensora`?\n")


# Schema


@pytest.fixture(scope="module")
def valid() -> Callable[[Any], bool]:
    schema = in_json("schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_fit_the_schema(path: Path, valid: Callable[[Any], bool]) -> None:
    assert valid(yaml.safe_load(path.read_text()))


GOOD = {
    "model": {"backbone": "opensora", "weights": "random"},
    "sampler": {"rflow": {"steps": 4}},
    "techniques": [{"toca": {"interval": 2}}, {"fora": None}],
    "inputs": {"prompts": ["a cat"], "num_frames": 17},
    "seed": 1,
    "profiles": {"paper": {"seed": 2}},
    "baseline": {"techniques": [{"fora": {"interval": 2}}]},
}
WRONG: dict[tuple[str | int, ...], Any] = {
    ("sede",): 1,
    ("model",): "opensora",
    ("model", "weight"): "x",
    ("model", "weights"): 5,
    ("model", "dtype"): "fp16",
    ("sampler",): "rflow",
    ("sampler", "toca"): {},
    ("sampler", "rflow", "step"): 3,
    ("sampler", "rflow", "steps"): "3",
    ("techniques",): {"toca": {}},
    ("techniques", 0): "toca",
    ("techniques", 0, "toca"): 5,
    ("techniques", 0, "toca", "interval"): 0,
    ("techniques", 0, "toca", "intervl"): 2,
    ("techniques", 0, "toca", "fresh_ratio"): 1.5,
    ("techniques", 0, "tocca"): {},
    ("inputs", "prompts"): [],
    ("inputs", "frames"): 17,
    ("inputs", "num_frames"): True,
    ("seed",): -1,
    ("profiles",): [],
    ("extends",): ["a.yaml"],
}


def test_a_good_spec_fits_the_schema(valid: Callable[[Any], bool]) -> None:
    assert valid(GOOD)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: ".".join(map(str, path)))
def test_a_wrong_spec_does_not_fit_the_schema(path: Sequence[Any], valid: Callable[[Any], bool]) -> None:
    spec = copy.deepcopy(GOOD)
    holder: Any = spec
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = WRONG[tuple(path)]
    assert not valid(spec)


# New techniques


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "engine" / "techniques").mkdir(parents=True)
    return tmp_path


def technique_in(path: Path) -> type[Technique]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [cls] = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == path.stem]
    assert issubclass(cls, Technique)
    return cls


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_new_writes_a_technique_and_a_spec_that_compile(project: Path) -> None:
    shown = done("new", "deep_skip", "--family", "gating", "--root", project)
    written = ["engine/techniques/gating/__init__.py", "engine/techniques/gating/deep_skip.py"]
    written += ["specs/deep_skip_opensora.yaml"]
    assert files_in(project) == written and shown.split() == [
        word for name in written for word in ("wrote", str(project / name))
    ]
    cls = technique_in(project / written[1])
    assert (cls.__name__, cls.slug, cls.family) == ("DeepSkip", "deep_skip", "gating")
    with registry.adding(cls):
        plan = in_json("plan", project / written[2], "--profile", "scale", "--json")
    assert plan["techniques"][0]["slug"] == "deep_skip" and plan["estimate"]["macs_ratio"] > 1.2


def test_what_new_writes_follows_the_projects_style(project: Path) -> None:
    done("new", "deep_skip", "--family", "gating", "--root", project)
    folder, config = project / "engine", ROOT / "pyproject.toml"
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", config, folder]
        ended = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_new_overwrites_nothing(project: Path) -> None:
    done("new", "deep_skip", "--family", "gating", "--root", project)
    (project / "specs" / "deep_skip_opensora.yaml").unlink()
    (project / "engine" / "techniques" / "gating" / "deep_skip.py").write_text("mine")
    before = files_in(project)
    assert "the file exists already" in problems("new", "deep_skip", "--family", "gating", "--root", project)
    assert files_in(project) == before
    assert (project / "engine" / "techniques" / "gating" / "deep_skip.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "rule", "remedy"),
    [
        (["Deep-Skip", "--family", "gating"], "SLUG: `Deep-Skip` is no name", "lower-case letters"),
        (["class", "--family", "gating"], "SLUG: `class` is no name", "lower-case letters"),
        (["x", "--family", "../.."], "--family: `../..` is no name", "lower-case letters"),
        (["x", "--family", "f", "--backbone", "open-sora"], "--backbone: there is no backbone", "mean `opensora`?"),
        (["toca", "--family", "gating"], "SLUG: there is a technique `toca` already", "choose another name"),
        (["site", "--family", "gating"], "SLUG: the class of `site` would be called `Site`", "choose another name"),
        (["x", "--family", "f", "--root", "nowhere"], "--root: nowhere/engine/techniques is not there", "with --root"),
    ],
)
def test_new_refuses(
    arguments: list[str], rule: str, remedy: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    shown = problems("new", *arguments)
    assert f"error: {rule}" in shown and remedy in shown
    assert files_in(project) == []


def test_new_leaves_nothing_when_a_file_cannot_be_written(project: Path) -> None:
    (project / "specs").write_text("a file where a folder belongs")
    shown = problems("new", "deep_skip", "--family", "gating", "--root", project)
    assert "cannot be written" in shown and "--root" in shown
    assert files_in(project) == ["specs"] and list((project / "engine" / "techniques").iterdir()) == []


# Runs, on the tiny backbone


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A spec that runs in a moment: whatever is asked for, the tiny backbone answers."""

    def sketch(cls: Any, choice: Any) -> Any:
        return cls.tiny()

    cls = BACKBONES["opensora"]
    monkeypatch.setattr(cls, "sketch", classmethod(sketch))
    monkeypatch.setattr(cls, "load", lambda self, device: None)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: {backbone: opensora, weights: random}\nsampler: {rflow: {steps: 4, base_size: 16}}\n"
        "techniques:\n  - fora: {interval: 2}\n"
        "inputs: {prompts: [a cat], num_frames: 1, height: 16, width: 16}\n"
    )
    yield path


def test_run_prints_its_report_and_nothing_else(tiny: Path) -> None:
    report = in_json("run", tiny, "--device", "cpu", "--repeats", "1", "--out", "out/first", "--json")
    assert report == json.loads(Path("out/first/report.json").read_text())
    assert report["receipts"]["techniques"]["fora"]["as_planned"]
    assert [path.name for path in Path("out").iterdir()] == ["first"]


def test_run_shows_a_summary_and_names_its_folder(tiny: Path) -> None:
    shown = done("run", tiny, "--repeats", "1", "--out", "plain", "--no-baseline")
    assert "wrote plain" in shown


def test_a_run_without_effect_ends_with_three_and_leaves_nothing(tiny: Path) -> None:
    result = engine("run", tiny, "--repeats", "1", "--set", "techniques.fora.interval=1", "--json")
    assert (result.exit_code, result.stdout) == (3, "") and "Traceback" not in result.output
    assert "tiny.yaml:4:5 techniques.0.fora" in result.stderr
    assert "`fora` changed nothing" in result.stderr and "with `interval: 2` it would act" in result.stderr
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


def test_prepare_says_when_there_is_nothing_to_do(tiny: Path) -> None:
    assert done("prepare", tiny) == "nothing to prepare: no technique of this spec needs an artefact\n"
