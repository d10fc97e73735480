"""Bad input teaches: a mistake is answered with a place, a rule and a remedy, exit code 2, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import psutil
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from support import BACKBONES
from typer.testing import CliRunner, Result

from engine import registry
from engine.cli import app
from engine.errors import Unavailable
from engine.report import output_folder
from engine.sites import SiteKind, Sites
from engine.technique import Stage, Technique

SPEC = "specs/bad.yaml"
GOOD = """\
model: {backbone: opensora, weights: small}
sampler:
  rflow: {steps: 4}
techniques:
  - toca: {interval: 2}
inputs:
  prompts: [a red apple moving right]
  num_frames: 17
  height: 64
  width: 64
seed: 0
"""
DEEP = "[" * 1000 + "]" * 1000
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"

Patch = Callable[[pytest.MonkeyPatch], None]


class Convolved(Technique):
    """Needs what the backbone lacks."""

    slug, family, stage = "convolved", "test", Stage.REUSE
    requires = frozenset({SiteKind.CONV})


class Joined(Technique):
    """Needs what every backbone lacks."""

    slug, family, stage = "joined", "test", Stage.REUSE
    requires = frozenset({SiteKind.CONV, SiteKind.JOINT_ATTENTION})


class Nowhere(Technique):
    """Matches no site, and does not get on with ToCa."""

    slug, family, stage = "nowhere", "test", Stage.ROUTE
    excludes: ClassVar[dict[str, str]] = {"toca": "both skip what the other needs"}

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.BLOCK, lambda call, hidden, at: call(hidden), lambda site: site.depth > 99)


@dataclass(frozen=True)
class Mistake:
    """What a user got wrong, and what the first line and the remedy must say.

    `where` is all that stands before the rule; inside the spec file it may start at the line.
    """

    name: str
    where: str
    rule: str
    remedy: str
    text: str | bytes = GOOD
    options: Sequence[str] = ()
    files: dict[str, str] = field(default_factory=dict)
    techniques: Sequence[type[Technique]] = ()
    patch: Patch | None = None
    path: str = SPEC
    command: str = "run"

    @property
    def place(self) -> str:
        return f"{SPEC}:{self.where}" if self.where[:1].isdigit() else self.where


def changed(old: str, new: str) -> str:
    """The good spec with one thing different."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def wrong(name: str, old: str, new: str, where: str, rule: str, remedy: str, **more: Any) -> Mistake:
    """A mistake in one spot of an otherwise good spec."""
    return Mistake(name, where, rule, remedy, changed(old, new), **more)


def asked(name: str, options: Sequence[str], where: str, rule: str, remedy: str, **more: Any) -> Mistake:
    """A mistake on the command line, with a good spec."""
    return Mistake(name, where, rule, remedy, options=options, **more)


def extends(name: str, value: str, rule: str, remedy: str, files: dict[str, str] | None = None) -> Mistake:
    """A mistake in the first line, `extends:`."""
    return Mistake(name, "1:1 extends", rule, remedy, f"extends: {value}\n{GOOD}", files=files or {})


def offline(patch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    patch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def no_cuda(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)


def little_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))


TOCA, TYPE = "techniques.0.toca", "which has the wrong type"
MODEL, SAMPLER = "write `model: {backbone: opensora", "write `sampler: {rflow: {steps: 30}}`"
HUB = "{transformer: small/transformer, vae: small/vae, text_encoder: org/t5, tokenizer: org/t5}"
INTERVAL, TECHNIQUE = "{interval: 2}", "- toca: {interval: 2}"

KEYS = [
    wrong("key", "seed:", "sede:", "11:1 sede", "unknown key `sede`", "did you mean `seed`?"),
    wrong("key in capitals", "seed:", "SEED:", "11:1 SEED", "unknown key `SEED`", "did you mean `seed`?"),
    wrong("key like extends", "seed: 0", "extend: x", "11:1 extend", "unknown key", "did you mean `extends`?"),
    wrong("key like profiles", "seed: 0", "profile: {}", "11:1 profile", "unknown key", "did you mean `profiles`?"),
    wrong("model key", "weights:", "weight:", "1:29 model.weight", "unknown key `weight`", "did you mean `weights`?"),
    wrong("input key", "num_frames", "frames", "8:3 inputs.frames", "unknown key", "did you mean `num_frames`?"),
    wrong("parameter", "interval:", "intervl:", f"5:12 {TOCA}.intervl", "unknown key", "did you mean `interval`?"),
    wrong("sampler parameter", "steps:", "step:", "3:11 sampler.rflow.step", "unknown key", "did you mean `steps`?"),
    wrong("key named like a type", "seed: 0", "str: 1", "11:1 str", "unknown key `str`", "use one of"),
    wrong("key twice", "seed: 0", "seed: 0\nseed: 1", "12:1 seed", "twice (first in line 11)", "remove one"),
    wrong("keys that are lists", "seed: 0", "? [a]\n: 0", "11:3", "keys must be plain words", "write `key: value`"),
    wrong("no model", "model: {backbone: opensora, weights: small}", "", "2:1 model", "`model` is missing", MODEL),
    wrong("no backbone", "backbone: opensora, ", "", "1:1 model.backbone", "missing", "write `backbone: opensora`"),
    wrong("no sampler", "sampler:\n  rflow: {steps: 4}", "", "1:1 sampler", "`sampler` is missing", SAMPLER),
    wrong("no prompts", "prompts: [a red apple moving right]", "", "6:1 inputs.prompts", "missing", "What to generate"),
    Mistake("extends inside a profile", "13:10 extends", "top level of a file", "move it there",
            GOOD + "profiles:\n  fast: {extends: models/opensora.yaml}\n", ["--profile", "fast"]),
]  # fmt: skip
TYPES = [
    wrong("text for int", "height: 64", "height: '64'", "9:3 inputs.height", '`height` is "64"', "`64`, without"),
    wrong("bool for int", INTERVAL, "{interval: yes}", f"5:12 {TOCA}.interval", "`interval` is true", "a whole number"),
    wrong("float for int", INTERVAL, "{interval: 2.0}", f"5:12 {TOCA}.interval", "`interval` is 2.0", "a whole number"),
    wrong("text for float", INTERVAL, "{fresh_ratio: 1e-1}", f"5:12 {TOCA}.fresh_ratio", '"1e-1"', "`0.1`, without"),
    wrong("int for bool", INTERVAL, "{count_down: 1}", f"5:12 {TOCA}.count_down", "is 1", "give true or false"),
    wrong("int for text", "seed: 0", "title: 5", "11:1 title", "`title` is 5", 'put it in quotes, `"5"`'),
    wrong("null for int", "seed: 0", "seed:", "11:1 seed", "`seed` is null", "give a whole number"),
    wrong("list for mapping", "\n  rflow: {steps: 4}", " [rflow]", "2:1 sampler", TYPE, SAMPLER),
    wrong("sampler as text", "\n  rflow: {steps: 4}", " rflow", "2:1 sampler", '`sampler` is "rflow"', SAMPLER),
    wrong("model as text", "{backbone: opensora, weights: small}", "opensora", "1:1 model", '`model` is "ope', MODEL),
    wrong("prompts as text", "[a red apple moving right]", "a cat", "7:3 inputs.prompts", TYPE, '`["a cat"]`'),
    wrong("int among prompts", "[a red apple moving right]", "[a, 5]", "7:16 inputs.prompts.1",
          "item 2 of `prompts` is 5", 'put it in quotes, `"5"`'),
    wrong("item as text", TECHNIQUE, "- toca", "5:5 techniques.0", 'item 1 of `techniques` is "toca"',
          "write `- toca: {parameter: value}`, or `- toca:` alone"),
    wrong("number for parameters", INTERVAL, "5", f"5:5 {TOCA}", "`toca` is 5", "write `toca: {parameter: value}`"),
    wrong("techniques as mapping", "  - toca", "  toca", "4:1 techniques", '`techniques` is {"toca": {"interval"',
          "write `techniques: [{toca: {interval: 3}}]`"),
    wrong("weights as number", "small", "5", "1:29 model.weights", "`weights` is 5", "give text or a mapping"),
    wrong("weights of a part", "small", "{vae: 5}", "1:39 model.weights.vae", "`vae` is 5", 'in quotes, `"5"`'),
    wrong("long value", "[a red apple moving right]", f"{{x: {'y' * 500}}}", "7:3 inputs.prompts", "yyy..., which",
          "give a list"),
    wrong("profiles as list", "seed: 0", "profiles: [fast]", "11:1 profiles", "`profiles` must map names", "paper: {"),
    wrong("profile as number", "seed: 0", "profiles: {fast: 5}", "11:12 profiles.fast",
          "profile `fast` must be a mapping", "write `key: value` lines", options=["--profile", "fast"]),
]  # fmt: skip
RANGES = [
    wrong("below", INTERVAL, "{interval: 0}", f"5:12 {TOCA}.interval", "`interval` is 0, out of range", "at least 1"),
    wrong("above", INTERVAL, "{fresh_ratio: 1.5}", f"5:12 {TOCA}.fresh_ratio", "is 1.5, out of range", "at most 1"),
    wrong("too large", "seed: 0", "seed: 99999999999999999999", "11:7 seed", "larger than any setting", "below 2^63"),
    wrong("not finite", INTERVAL, "{fresh_ratio: .nan}", f"5:25 {TOCA}.fresh_ratio", "`.nan`", "ordinary number"),
    wrong("date", "seed: 0", "title: 2024-13-45", "11:8 title", "looks like a number or a date", "in quotes"),
    wrong("option", "weights: small", "dtype: fp16", "1:29 model.dtype", '`dtype` cannot be "fp16"', "mean `float16`?"),
    wrong("prompts empty", "[a red apple moving right]", "[]", "7:3 inputs.prompts", "has 0 entries", "at least 1"),
    wrong("frames", "num_frames: 17", "num_frames: 5", "8:3 inputs.num_frames", "`num_frames` is 5", "at least 17"),
    wrong(
        "frames without end",
        "num_frames: 17",
        "num_frames: 4611686018427387904",
        "8:3 inputs.num_frames",
        "out of range",
        "at most 10000",
    ),
    wrong(
        "in another profile",
        "seed: 0",
        "profiles: {paper: {sede: 1}}",
        "11:20 sede",
        "unknown key `sede`",
        "mean `seed`?",
        command="check",
    ),
    wrong(
        "in the baseline",
        "seed: 0",
        "baseline: {techniques: [{toca: }, {fora: }]}",
        "11:36 techniques.1.fora",
        "both of stage REUSE",
        "keep one",
    ),
]
NAMES = [
    wrong("backbone", "opensora", "open-sora", "1:9 model.backbone", "no backbone `open-sora`", "mean `opensora`?"),
    wrong("technique", TECHNIQUE, "- tocca: {}", "5:5 techniques.0.tocca", "no technique `tocca`", "mean `toca`?"),
    wrong("sampler", "rflow", "rflo", "3:3 sampler.rflo", "there is no sampler `rflo`", "did you mean `rflow`?"),
    wrong("technique as sampler", "rflow: {steps: 4}", "toca: {}", "3:3 sampler.toca", "`toca` is no sampler",
          "list it under `techniques:`"),
    wrong("sampler as technique", TECHNIQUE, "- rflow: {}", "5:5 techniques.0.rflow", "`rflow` is a sampler",
          "name it under `sampler:`"),
    wrong("two names in an item", INTERVAL, "{}\n    fora: {}", "5:5 techniques.0", "2 names where one technique",
          "write `- name: {parameter: value}`"),
    wrong("two samplers", "rflow: {steps: 4}", "rflow: {}\n  toca: {}", "2:1 sampler", "2 names where one technique",
          "name one: `sampler: {name:"),
    wrong("baseline", "seed: 0", "baseline: {techniques: [fora: {intervall: 2}]}",
          "11:32 baseline.techniques.0.fora.intervall", "unknown key `intervall`", "did you mean `interval`?"),
    wrong("baseline's sampler", "seed: 0", "baseline: {sampler: {toca: {}}}", "11:22 baseline.sampler.toca",
          "`toca` is no sampler", "name a sampler here: `ddim`"),
    wrong("baseline is the run itself", "seed: 0", "baseline: {techniques: [toca: {interval: 2}]}", "11:1 baseline",
          "the baseline is the run itself", "another sampler or more steps"),
    asked("profile", ["--profile", "papr"], "--profile papr", "no profile `papr`", "use one of: `embedded`, `fast`",
          text=f"{GOOD}profiles: {{fast: {{}}}}\n"),
    wrong("weights folder", "small", "./nowhere", "1:29 model.weights", "no weights folder nowhere/transformer",
          "give a folder in the layout"),
    wrong("weights without config", "small", "{transformer: empty, vae: small/vae}", "1:29 model.weights",
          "empty has no config.json", "copy it from the hub repository", files={"empty/read.me": ""}),
    wrong("weights lack a part", "small", "{transformer: small/transformer}", "1:29 model.weights", "names no `vae`",
          "add `vae: FOLDER or hub id`"),
    wrong("hub without network", "small", HUB, "1:87 model.weights.text_encoder", "neither in the local hub cache nor",
          "download *.json, *.safetensors, *.bin from https://huggingface.co/org/t5", patch=offline),
    wrong("reference", "seed: 0", "  reference: apple.png", "11:3 inputs.reference", "there is no file apple.png",
          "name a picture or video file"),
]  # fmt: skip
TOGETHER = [
    wrong("capability", TECHNIQUE, "- convolved:", "5:5 techniques.0.convolved", "backbone `opensora` has no conv",
          "use a backbone that has: `ddpm`, `sd`", techniques=[Convolved]),
    wrong("capability of none", TECHNIQUE, "- joined:", "5:5 techniques.0.joined",
          "backbone `opensora` has no conv and no joint_attention", "remove it", techniques=[Joined]),
    wrong("one stage on one site", INTERVAL, "\n  - fora:", "6:5 techniques.1.fora",
          "`toca` and `fora` are both of stage REUSE", "keep one of the two"),
    wrong("twice", INTERVAL, "\n  - toca:", "6:5 techniques.1.toca", "listed twice (first in line 5)", "merge the two"),
    wrong("no site", TECHNIQUE, "- nowhere:", "5:5 techniques.0.nowhere", "`nowhere` matches no site", "widen its",
          techniques=[Nowhere]),
]  # fmt: skip
TEXTS = [
    Mistake("alias", "1:4", "anchors and aliases are not used", "write the value out", BOMB),
    Mistake("billion laughs", "1:6", "anchors and aliases", "write the value out", "lol: &lol [x]\n" + "\n".join(
        f"lol{n}: &lol{n} [{', '.join([f'*lol{n - 1}'] * 9)}]" for n in range(1, 9))),
    Mistake("merge key", "1:4", "anchors and aliases", "use `extends`", "a: &a {seed: 1}\nb:\n  <<: *a\n"),
    Mistake("merge key alone", "1:1", "keys must be plain words", "write `key: value`", "<<: {seed: 1}\n"),
    Mistake("object tag", "1:7", "`!!python/object:os.system`", "without a tag",
            "seed: !!python/object:os.system [ls]\n"),
    Mistake("call tag", "1:7", "`!!python/object/apply:os.system`", "without a tag",
            "seed: !!python/object/apply:os.system ['touch pwned']\n"),
    Mistake("tag on a mapping", "1:8", "`!!python/dict` are", "without a tag", "model: !!python/dict {a: 1}\n"),
    Mistake("unknown handle", "1:7", "undefined tag handle '!x!'", "mend the syntax", "seed: !x!y 1\n"),
    Mistake("not UTF-8", "2:8", "byte 15 is not UTF-8", "save the file as UTF-8", b"seed: 0\ntitle: \xff\xfe\n"),
    Mistake("UTF-16", "1:1", "byte 0 is not UTF-8", "save the file as UTF-8", GOOD.encode("utf-16")),
    Mistake("NUL", "2:8", "no text (code 0)", "remove it", "seed: 0\ntitle: \0\n"),
    Mistake("control character", "2:8", "no text (code 27)", "remove it", "seed: 0\ntitle: \x1b[31m\n"),
    Mistake("escaped NUL", "1:8 title", "cannot be shown (code 0)", "remove the escape", 'title: "a\\0b"\n'),
    Mistake("escaped surrogate", "1:8 title", "(code 55296)", "remove the escape", 'title: "\\ud800"\n'),
    Mistake("escape in a key", "1:1", "cannot be shown (code 27)", "remove the escape", '"\\e[31m": 1\n'),
    Mistake("long file", SPEC, "more than 1,000,000 bytes", "check that this is the right file", "a" * 10_000_000),
    Mistake("empty file", "1", "the file is empty", "start with `model:`", ""),
    Mistake("only comments", "1", "the file is empty", "start with `model:`", "# nothing\n"),
    Mistake("list", "1:1", "top level must be a mapping", "write `key: value` lines", "- model\n"),
    Mistake("text", "1:1", "top level must be a mapping", "write `key: value` lines", "model\n"),
    Mistake("thousand brackets", "1:39", "nested too deeply", "nest at most 30 levels", f"prompts: {DEEP}\n"),
    Mistake("thousand braces", "1:120", "nested too deeply", "at most 30 levels", "a: " + "{a: " * 999 + "}" * 999),
    Mistake("two documents", "2:1", "a second starts here", "a file of its own", "seed: 0\n---\nseed: 1\n"),
    Mistake("open bracket", "2:10", "not valid YAML: expected ',' or ']'", "close the bracket that opens here",
            "seed: 0\nprompts: [a\ntitle: x\n"),
    Mistake("open quotation", "2:1", "found unexpected end of stream", "close the quotation mark", "title: 'x\n"),
    Mistake("tab", "2:1", "found character '\\t'", "indent with spaces", "sampler:\n\trflow: {}\n"),
    Mistake("at sign", "1:8", "found character '@'", "put the text in quotes", "title: @home\n"),
    Mistake("colon in text", "1:13", "mapping values are not allowed", "in quotes", "title: a cat: b\n"),
    Mistake("dedent", "3:2", "expected <block end>", "mend the indentation", "sampler:\n  rflow: {}\n x: {}\n"),
]  # fmt: skip
FILES = [
    Mistake("folder", "specs", "this is a folder", "name a .yaml file inside it", path="specs"),
    Mistake("typo in the name", "specs/bade.yaml", "there is no such file", "mean `bad.yaml`?", path="specs/bade.yaml"),
    Mistake("no such folder", "spec/bad.yaml", "there is no such file", "check the path", path="spec/bad.yaml"),
    Mistake("file as folder", f"{SPEC}/x.yaml", "cannot be read: Not a", "check the path", path=f"{SPEC}/x.yaml"),
    Mistake("long name", f"{'x' * 300}", "cannot be read: File name too long", "check the path", path="x" * 300),
    Mistake("endless file", "/dev/zero", "more than 1,000,000 bytes", "right file", path="/dev/zero"),
]
EXTENDS = [
    extends("itself", "bad.yaml", "in a circle: bad.yaml -> bad.yaml", "remove one of the links"),
    Mistake("a circle of two", "specs/other.yaml:1:1 extends", "bad.yaml -> other.yaml -> bad.yaml",
            "remove one of the links", "extends: other.yaml\n", files={"specs/other.yaml": "extends: bad.yaml\n"}),
    extends("outside", "../secret.yaml", "leaves the specs folder", "extend a file inside", {"secret.yaml": GOOD}),
    extends("absolute", "/etc/passwd", "leaves the specs folder", "extend a file inside the folder"),
    extends("nothing", "models/opensoar.yaml", "no file `models/opensoar.yaml`", "mean `models/opensora.yaml`?"),
    extends("a folder", "models", "there is no file `models`", "mean `models/a.yaml`?", {"specs/models/a.yaml": GOOD}),
    extends("a long name", "x" * 5000, "there is no file", "use one of: "),
    extends("two files", "[a.yaml, b.yaml]", "`extends` must be the path of one file", "write `extends: models/"),
    extends("null", "", "`extends` must be the path of one file", "write `extends: models/opensora.yaml`"),
    Mistake("mistake in the base", "specs/base.yaml:3:11 sampler.rflow.step", "unknown key `step`", "mean `steps`?",
            "extends: base.yaml\n", files={"specs/base.yaml": changed("steps", "step")}),
]  # fmt: skip
OPTIONS = [
    asked("no equals sign", ["--set", "seed"], "--set seed", "`--set seed` has no value", "write KEY=VALUE"),
    asked("no key", ["--set", "=3"], "--set =3", "`--set =3` names no key", "write KEY=VALUE"),
    asked("empty step", ["--set", "model..dtype=x"], "--set model..dtype=x", "names no key", "write KEY=VALUE"),
    asked("unknown key", ["--set", "sede=3"], "--set sede=3", "unknown key `sede`", "did you mean `seed`?"),
    asked("inner key", ["--set", "model.weigths=x"], "--set model.weigths=x", "unknown key", "mean `weights`?"),
    asked("unlisted technique", ["--set", "techniques.tocca.interval=3"], "--set techniques.tocca.interval=3",
          "`tocca` is not in the list", "did you mean `toca`?"),
    asked("parameter", ["--set", "techniques.toca={intervl: 3}"], "--set techniques.toca={intervl: 3}",
          "unknown key `intervl`", "did you mean `interval`?"),
    asked("range", ["--set", "techniques.toca.interval=0"], "--set techniques.toca.interval=0", "is 0", "at least 1"),
    asked("broken YAML", ["--set", "seed=[1"], "--set seed=[1", "not valid YAML", "close the bracket"),
    asked("two values", ["--set", "seed=1\ntitle: x"], "--set seed=1\ntitle: x", "more than one value", "its own"),
    asked("index", ["--set", "inputs.prompts.0=x"], "--set inputs.prompts.0=x", TYPE, "give a list"),
    asked("tag", ["--set", "seed=!!python/name:os"], "--set seed=!!python/name:os", "not used", "plain values"),
    asked("extends", ["--set", "extends=x.yaml"], "--set extends=x.yaml", "top level of a file", "move it there"),
    asked("device", ["--device", "tpu"], "--device", "no device `tpu`", "use one of: `auto`, `cpu`, `cuda`"),
    asked("no CUDA", ["--device", "cuda"], "--device cuda", "no CUDA device", "use `--device cpu`", patch=no_cuda),
    asked("memory", ["--device", "cpu"], SPEC, "0.0 GiB are free", "use a smaller size or batch", patch=little_memory),
    asked("out in a file", ["--out", f"{SPEC}/x"], f"{SPEC}/x", "cannot be written: Not a directory", "name another"),
    asked("out in /proc", ["--out", "/proc/no/x"], "/proc/no/x", "cannot be written: ", "name another folder"),
    asked("out too long", ["--out", f"new/{'x' * 300}"], f"new/{'x' * 300}", "File name too long", "name another"),
    asked("out with files", ["--out", "specs"], "specs", "holds other files", "name a new or empty folder"),
    asked("out as file", ["--out", SPEC], SPEC, "the output folder is a file or a link", "name a new or empty folder"),
    asked("out here", ["--out", "."], ".", "the one this runs in", "name a folder inside it"),
    asked("device to prepare", ["--device", "gpu"], "--device", "no device `gpu`", "`cuda`", command="prepare"),
]  # fmt: skip
GROUPS = {"keys": KEYS, "types": TYPES, "ranges": RANGES, "names": NAMES, "together": TOGETHER, "texts": TEXTS,
          "files": FILES, "extends": EXTENDS, "options": OPTIONS}  # fmt: skip
MISTAKES = [pytest.param(mistake, id=f"{group}: {mistake.name}") for group, all_ in GROUPS.items() for mistake in all_]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder that holds the sizes of the tiny backbone and no weights."""
    folder, tiny = tmp_path_factory.mktemp("small"), BACKBONES["opensora"].tiny()
    for name in ("transformer", "vae"):
        getattr(tiny, "model" if name == "transformer" else name).save_config(folder / name)
    return folder


@pytest.fixture
def home(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, who keeps specs and weights in it."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "small").symlink_to(small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entries(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = entries(folder)
    yield
    assert entries(folder) == before


def engine(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def lessons(result: Result) -> list[tuple[str, str]]:
    """The first line and the remedy of every problem shown."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "an error the command did not expect"
    assert "Traceback" not in result.output
    problems = result.stderr.removeprefix("error: ").split("\nerror: ")
    split = [tuple(problem.split("\n    -> ")) for problem in problems]
    assert all(len(parts) == 2 and all(part.strip() for part in parts) for parts in split), result.stderr
    return [(rule, remedy) for rule, remedy in split]


def write(home: Path, text: str | bytes, name: str = SPEC) -> None:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_the_good_spec_is_good(home: Path) -> None:
    write(home, GOOD)
    with unchanged(home):
        result = engine("check", SPEC)
    assert (result.exit_code, result.stdout) == (0, f"ok: {SPEC} (opensora: toca; embedded)\n")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_explained(mistake: Mistake, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {SPEC: mistake.text, **mistake.files}.items():
        write(home, text, name)
    if mistake.patch is not None:
        mistake.patch(monkeypatch)
    with unchanged(home), registry.adding(*mistake.techniques):
        result = engine(mistake.command, mistake.path, *mistake.options)
    [(rule, remedy)] = lessons(result)
    assert rule.startswith(f"{mistake.place}: ")
    assert mistake.rule in rule.removeprefix(f"{mistake.place}: ")
    assert mistake.remedy in remedy


@pytest.mark.parametrize("command", ["run", "plan", "check", "prepare"])
def test_every_command_explains(command: str, home: Path) -> None:
    write(home, changed("seed:", "sede:"))
    with unchanged(home):
        result = engine(command, SPEC)
    assert lessons(result) == [(f"{SPEC}:11:1 sede: unknown key `sede`", "did you mean `seed`?\n")]
    assert result.stdout.strip() == ""


def test_all_problems_of_a_spec_are_shown_from_top_to_bottom(home: Path) -> None:
    write(
        home, GOOD.replace("weights:", "weight:").replace("rflow: {steps: 4}", "5").replace("seed: 0", "seed: -1\nx: 1")
    )
    with unchanged(home):
        places = [rule.partition(": ")[0] for rule, _ in lessons(engine("run", SPEC))]
    assert places == [f"{SPEC}:{where}" for where in ("1:29 model.weight", "2:1 sampler", "11:1 seed", "12:1 x")]


def test_names_parameters_and_inputs_are_checked_together(home: Path) -> None:
    text = GOOD
    for old, new in {"steps: 4": "steps: 0", "- toca": "- tocca: {}\n  - toca", "interval: 2": "interval: 0"}.items():
        text = text.replace(old, new)
    write(home, text.replace("height: 64", "height: 1"))
    with unchanged(home):
        places = [rule.partition(": ")[0].split()[1] for rule, _ in lessons(engine("run", SPEC))]
    assert places == ["sampler.rflow.steps", "techniques.0.tocca", "techniques.1.toca.interval", "inputs.height"]


def test_an_exclusion_is_reported_beside_an_empty_effect(home: Path) -> None:
    write(home, changed(INTERVAL, "\n  - nowhere:"))
    with unchanged(home), registry.adding(Nowhere):
        found = lessons(engine("run", SPEC))
    assert len(found) == 2 and all(rule.startswith(f"{SPEC}:6:5 techniques.1.nowhere: ") for rule, _ in found)
    assert "matches no site" in found[0][0]
    assert "`nowhere` cannot run with `toca`: both skip what the other needs" in found[1][0]


def test_check_shows_the_problems_of_every_file_once(home: Path) -> None:
    write(home, changed("seed:", "sede:"), "specs/base.yaml")
    for name in ("one", "two"):
        write(home, "extends: base.yaml\ntitel: x\n", f"specs/{name}.yaml")
    write(home, GOOD)
    with unchanged(home):
        result = engine("check", "specs/one.yaml", SPEC, "specs/two.yaml")
    places = sorted(rule.partition(" ")[0] for rule, _ in lessons(result))
    assert places == ["specs/base.yaml:11:1", "specs/one.yaml:2:1", "specs/two.yaml:2:1"]
    assert result.stdout == f"ok: {SPEC} (opensora: toca; embedded)\n"


def test_nothing_is_written_when_loading_fails_after_the_output_folder_was_made(home: Path) -> None:
    write(home, GOOD)
    with unchanged(home):
        result = engine("run", SPEC, "--out", "runs/deep/down")
    assert "there is no weights folder small/text_encoder" in lessons(result)[0][0]


def test_output_folder_reports_a_disk_that_fails_at_the_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with unchanged(home), pytest.raises(Unavailable, match="No space left") as caught, output_folder(home / "a" / "b"):
        monkeypatch.setattr(Path, "rename", rename)
    assert caught.value.exit_code == 2 and caught.value.problems[0].remedy


SCALARS: list[Any] = [None, True, 0, -1, 2, 0.5, -1e300, "", "x", "../x", "a/b", "~nobody", "1e-3", "é", "\n"]
SCALARS += [[], {}, [None], {"a": None}, {"toca": 5}, [[]]]


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from spots(inner, (*path, key))


@pytest.mark.parametrize("spot", list(spots(yaml.safe_load(GOOD))), ids=lambda spot: ".".join(map(str, spot)))
def test_any_value_anywhere_is_taken_or_explained(spot: tuple[Any, ...], home: Path) -> None:
    for value in SCALARS:
        spec = yaml.safe_load(GOOD)
        holder = spec
        for key in spot[:-1]:
            holder = holder[key]
        holder[spot[-1]] = value
        write(home, yaml.safe_dump(spec))
        result = engine("check", SPEC)
        if result.exit_code:
            assert all(rule.startswith(f"{SPEC}:") for rule, _ in lessons(result))
