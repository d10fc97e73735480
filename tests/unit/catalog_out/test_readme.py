"""The README as a reader, GitHub and awesome-lint see it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from support import ROOT
from typer.testing import CliRunner

from catalog import generate, readme
from catalog.cli import app
from catalog.library import Library
from catalog.lists import News, Section, View
from catalog.markdown import md_url
from catalog.results import Report
from catalog.schema import Record

LINT = ROOT / "tests" / "awesome" / "lint.mjs"
ENTRY = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def text(library: Library) -> str:
    return readme.render(library)


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def addresses(text: str) -> list[str]:
    return [str(token.attrs["href"]) for token in tokens(text) if token.type == "link_open"]


def sections(text: str) -> dict[str, str]:
    """What stands under every heading of the second and third degree."""
    parts = re.split(r"^###? (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def placed(library: Library, **sections: list[str]) -> Library:
    """The library with one view of its own."""
    made = [Section(id=name, title=name.capitalize(), papers=papers) for name, papers in sections.items()]
    return dataclasses.replace(library, views=(View(id="own", title="Own Papers", position=1, sections=made),))


def entries(text: str) -> list[str]:
    return [body for _, body in ENTRY.findall(text)]


def test_both_views_have_all_entries_in_the_order_of_the_views(text: str, library: Library) -> None:
    assert [sum(len(section.papers) for section in view.sections) for view in library.views] == [52, 27]
    below, start = sections(text), 0
    for view in library.views:
        start = text.index(f"\n## {view.title}\n", start)
        for section in view.sections:
            start = text.index(f"\n### {section.title}\n", start)
            shown = ENTRY.findall(below[section.title])
            assert [int(number) for number, _ in shown] == list(range(1, len(section.papers) + 1))
            for (_, line), paper in zip(shown, section.papers, strict=True):
                assert f"](catalog/papers/{paper}.yaml)" in line
                assert library.records[paper].title.split(":")[0] in line


def test_every_entry_says_who_where_and_what(text: str, library: Library) -> None:
    for line in entries(text):
        (paper,) = re.findall(r"catalog/papers/(\w+)\.yaml", line)
        record = library.records[paper]
        assert f" - {', '.join(author.name for author in record.authors)}. **" in line
        assert f"**{library.venue(record.primary)}" in line
        assert f"![Abbreviation: {record.abbreviation}]" in line.replace("\\", "")


def test_every_address_of_every_record_appears(text: str, library: Library) -> None:
    there = set(addresses(text))
    for record in library.records.values():
        wanted = {md_url(link.url) for link in record.links if link.kind in ("paper", "code", "project")}
        wanted |= set(record.technique.specs if record.technique else ())
        assert wanted <= there, record.id


def test_every_relative_link_leads_to_a_file(text: str) -> None:
    relative = [link for link in addresses(text) if not re.match("https?:|#", link)]
    assert len(relative) > 59 and [link for link in relative if not (ROOT / link).is_file()] == []


def test_the_contents_lead_to_the_headings(text: str) -> None:
    headings = [title for title in re.findall(r"^###? (.+)$", text, re.MULTILINE)]
    shown = [title for title in headings if title not in ("Contents", *readme.LATER)]
    assert re.findall(r"^ *- \[(.+)\]\(#(.+)\)$", text, re.MULTILINE) == [
        (title, title.lower().replace(" ", "-")) for title in shown
    ]


def test_equal_headings_have_anchors_of_their_own(library: Library) -> None:
    twice = placed(library, others=["toca"])
    again = View(id="more", title="Own Papers", position=2, sections=[twice.views[0].sections[0]])
    text = readme.render(dataclasses.replace(twice, views=(*twice.views, again)))
    found = [link for link in addresses(text) if link.startswith(("#own", "#others"))]
    assert found == ["#own-papers", "#others", "#own-papers-1", "#others-1"]


def test_every_image_has_alternative_text(text: str) -> None:
    images = [token for token in tokens(text) if token.type == "image"]
    assert len(images) > 79 * 3 and all(token.content.strip() for token in images)


def test_a_badge_shows_what_has_to_be_prepared(library: Library, record: Callable[..., Record]) -> None:
    for training, said in {
        "none": "![Preparation: training-free](https://img.shields.io/badge/training--free-lightgrey)",
        "finetune": "![Preparation: needs fine-tuning](https://img.shields.io/badge/needs%20fine--tuning-yellow)",
        None: "![Preparation: not established](https://img.shields.io/badge/not%20established-red)",
    }.items():
        tags = {"applications": ["text_to_video"], "mechanisms": ["token_merging"], "training": training}
        changed = dataclasses.replace(library, records={**library.records, "toca": record(tags=tags)})
        (line,) = entries(readme.render(placed(changed, cache=["toca"])))
        assert said in line and line.count("Preparation") == 1


def test_training_free_papers_that_need_preparation_say_so(text: str, library: Library) -> None:
    view = next(view for view in library.views if view.id == "training-free")
    below = sections(text)
    needy = [
        line
        for section in view.sections
        for line, paper in zip(entries(below[section.title]), section.papers, strict=True)
        if library.records[paper].tags.training != "none"
    ]
    assert needy and all("Preparation: n" in line for line in needy)


def test_a_paper_that_stood_before_is_led_by_its_record(library: Library) -> None:
    first, second = entries(readme.render(placed(library, cache=["toca"], video=["toca"])))
    assert first.startswith("[Accelerating Diffusion Transformers with Token-wise Feature Caching](https://arxiv.org/")
    assert second.startswith("Accelerating Diffusion Transformers with Token-wise Feature Caching - Chang Zou, ")
    assert addresses(first)[1:2] != addresses(second)[:1] == ["catalog/papers/toca.yaml"]
    assert sorted(addresses(first)) == sorted(addresses(second))


def test_unverified_venues_and_claims_are_marked(library: Library, record: Callable[..., Record]) -> None:
    claim = {
        "id": "a", "base_model": "opensora", "metric": "latency_s", "value": 2.0, "baseline": 4.2,
        "source": {"where": "Table 1"}, "confidence": "C",
    }  # fmt: skip
    primary = {"venue": "iclr", "year": 2025, "kind": "conference", "primary": True, "award": "Oral"}
    sure = record(claims=[claim | {"confidence": "A"}], publications=[primary])
    unsure = record(claims=[claim], publications=[primary | {"note": "unverified: seen nowhere"}])
    assert readme.headline(sure, library, set()) == "2.1x faster (Open-Sora, computed)"
    assert readme.headline(unsure, library, set()) == "2.1x faster (Open-Sora, computed, unverified)"
    assert readme.headline(record(claims=[]), library, set()) == "no number recorded"
    assert readme.headline(record(claims=[claim | {"metric": "fid"}]), library, set()) == "no ratio recorded"
    assert readme.venue(sure, library) == "**ICLR 2025 Oral**."
    assert readme.venue(unsure, library) == "**ICLR 2025 Oral** (venue unverified)."


def test_the_headline_is_about_the_model_that_was_measured(library: Library) -> None:
    fora = library.records["fora"]
    assert readme.headline(fora, library, {"opensora"}).startswith("1.87x fewer FLOPs (Open-Sora")
    assert "Open-Sora" not in readme.headline(fora, library, {"dit"})


REPORT: dict[str, Any] = {
    "spec": "toca_opensora.yaml", "spec_hash": "a", "plan_hash": "b", "profile": "paper", "paper": "toca",
    "backbone": "opensora", "weights": "hub", "dtype": "float32", "techniques": {"toca": {}},
    "sampler": {"rflow": {"steps": 30}}, "inputs": {}, "seed": 0,
    "accelerated": {"seconds": 1.0, "all_seconds": [1.0]},
    "environment": {"processor": "AMD EPYC", "device": "cpu", "cores": 2},
    "speedup": 2.0, "macs_ratio": 2.345, "realised_fraction": 0.853, "psnr": 38.12, "ssim": 0.9971,
}  # fmt: skip


def test_runs_stand_beside_claims(library: Library) -> None:
    report = Report.model_validate(REPORT)
    changed = report.model_copy(update={"note": "random tokens", "psnr": None})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in readme.measured_table([changed, report]).split("\n")
    ]
    command = "`engine run specs/toca_opensora.yaml --profile paper`"
    assert rows[2] == [command, "2.00x", "2.35x", "0.85", "38.1", "0.997", "AMD EPYC, 2 cores"]
    assert rows[3][0] == f"{command} (random tokens)" and rows[3][4] == "-"
    technique = library.records["toca"].technique
    assert technique is not None and "specs/toca_opensora.yaml" in technique.specs
    specs = ", ".join(f"[{Path(path).name.replace('_', chr(92) + '_')}]({path})" for path in technique.specs)
    (row,) = [
        line for line in readme.status_table(library, [changed, report]).split("\n") if line.startswith("| ToCa ")
    ]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "implemented", "training-free", "2.36x fewer FLOPs (Open-Sora)",
        "2.00x speed-up, 2.35x MACs ratio (paper)", specs,
    ]  # fmt: skip
    assert readme.measured_table([]) == "No run has been published yet."


def test_the_table_has_every_paper_those_that_run_first(library: Library) -> None:
    lines = readme.status_table(library, []).split("\n")[2:]
    states = [line.split("|")[2].strip() for line in lines]
    order = ["verified", "implemented", "planned", "-"]
    assert len(lines) == 59 and states == sorted(states, key=order.index)
    assert len({len(line) for line in lines}) <= 2, "columns are aligned; wide signs count twice"


def test_news_are_the_latest(library: Library) -> None:
    news = tuple(News(date=dt.date(2026, 1, day), text=f"Day {day}.") for day in range(9, 0, -1))
    body = sections(readme.render(dataclasses.replace(library, news=news)))["News"]
    assert re.findall("- (.+): Day", body) == [f"2026-01-0{day}" for day in (9, 8, 7, 6, 5)]
    assert "News" not in sections(readme.render(dataclasses.replace(library, news=())))


def test_a_catalog_of_its_own_needs_no_origin(library: Library) -> None:
    own = dataclasses.replace(placed(library, cache=["toca"]), origin=None, news=())
    assert "The catalog grew from" not in readme.render(own)


def test_the_same_bytes_every_time_and_no_traces_of_the_machine(text: str, library: Library) -> None:
    assert readme.render(library) == text
    assert str(ROOT) not in text and "/home/" not in text and "/tmp" not in text
    assert "\r" not in text and text.endswith(".\n") and "\n\n\n" not in text


def commands(text: str) -> list[list[str]]:
    """Words of every command shown in the README, without remarks."""
    blocks = re.findall(r"^```bash\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.split(r"\s+", line.partition(" #")[0].strip()) for block in blocks for line in block.splitlines()]


def test_the_commands_shown_exist_with_their_options(text: str) -> None:
    shown = [words for words in commands(text) if words[0] == "catalog"]
    assert len(shown) > 5
    for words in shown:
        path = words[1:3] if words[1] in ("query", "seed") else words[1:2]
        result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, [*path, "--help"])
        options = [word for word in words if word.startswith(("--", "-o"))]
        assert result.exit_code == 0 and all(f" {option} " in result.stdout for option in options), words


def test_the_spec_shown_is_valid_yaml(text: str) -> None:
    (spec,) = re.findall(r"^```yaml\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    data = yaml.safe_load(spec)
    assert (ROOT / "specs" / data["extends"]).is_file() and list(data["techniques"][0]) == ["toca"]


def test_a_stale_readme_is_shown_as_a_diff_and_left_alone(
    text: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "load_library", lambda root: library)
    (tmp_path / "catalog").mkdir()
    arguments = ["build", "readme", "--catalog", str(tmp_path / "catalog")]
    file = tmp_path / "README.md"
    file.write_text(text.replace("## Quick Start", "## Slow Start"), encoding="utf-8")
    stale = CliRunner().invoke(app, [*arguments, "--check"])
    assert stale.exit_code == 1 and "-## Slow Start\n+## Quick Start\n" in stale.stdout
    assert "## Slow Start" in file.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, arguments).stdout == f"wrote: {file}\n"
    assert file.read_text(encoding="utf-8") == text
    assert CliRunner().invoke(app, [*arguments, "--check"]).exit_code == 0


def test_awesome_lint_finds_nothing(text: str, tmp_path: Path) -> None:
    if not shutil.which("node") or not (LINT.parent / "node_modules" / "awesome-lint").is_dir():
        pytest.skip("awesome-lint is not installed: npm ci --prefix tests/awesome")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "contributing.md", tmp_path)
    done = subprocess.run(
        ["node", str(LINT), str(tmp_path / "README.md")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
