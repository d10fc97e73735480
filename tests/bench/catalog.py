"""How the catalog answers at 10,000 records: `python -m tests.bench.catalog [RECORDS]`.

Makes a synthetic catalog in a temporary folder, then times the command line as a user would: building the database
once, then queries and searches, each as a whole process, median of five.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
REPEATS = 5
WORDS = ["fast", "cache", "token", "merge", "step", "prune", "layer", "video", "image", "diffusion", "sparse", "low"]
NAMES = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Leslie", "Tony", "Frances", "John", "Emmy", "Carl"]
RECORD = """\
schema: 1
id: {id}
title: "{title}"
abbreviation: {abbreviation}
authors:
{authors}
identifiers: {{arxiv: "{arxiv}"}}
publications:
  - {{venue: arxiv, year: {year}, month: {month}, kind: preprint}}
  - {{venue: {venue}, year: {later}, kind: conference, primary: true}}
links:
  - {{kind: paper, url: "https://arxiv.org/abs/{arxiv}"}}
  - {{kind: code, url: "https://github.com/someone/{id}", licence: MIT}}
tags:
  applications: [text_to_image]
  mechanisms: [{mechanism}]
  training: {training}
  scope: acceleration
  base_models: [dit, pixart]
technique: {{block: {id}, status: planned}}
claims:
  - id: speed
    base_model: dit
    metric: speedup
    value: {value}
    settings: {{steps: 50, resolution: 256x256}}
    source: {{where: abstract}}
    confidence: A
  - id: quality
    base_model: dit
    metric: fid
    value: 2.5
    baseline: 2.3
    settings: {{steps: 50, resolution: 256x256}}
    source: {{where: Table 1}}
    confidence: B
summary:
  short: {summary}
"""


def write_records(folder: Path, count: int) -> None:
    """A catalog of `count` records that keep all rules, with the project's vocabularies and one view."""
    draw = random.Random(0)
    papers = folder / "papers"
    papers.mkdir(parents=True)
    shutil.copytree(ROOT / "catalog" / "vocab", folder / "vocab")
    for number in range(count):
        year, month = 2000 + 10 + number % 15, 1 + number % 12
        people = [
            f"  - {{given: {draw.choice(NAMES)}, family: {draw.choice(NAMES)}{draw.randrange(900)}}}" for _ in range(4)
        ]
        (papers / f"paper_{number}.yaml").write_text(
            RECORD.format(
                id=f"paper_{number}",
                title=f"{' '.join(draw.sample(WORDS, 4))} number {number} {draw.randrange(10**9):09d}",
                abbreviation=f"Method-{number}",
                authors="\n".join(dict.fromkeys(people)),
                arxiv=f"{year % 100:02d}{month:02d}.{number:05d}",
                year=year,
                month=month,
                later=year + 1,
                venue=draw.choice(["iclr", "cvpr", "neurips"]),
                mechanism=draw.choice(["feature_caching", "token_merging", "layer_pruning", "sampling_solver"]),
                training=draw.choice(["none", "train", "search"]),
                value=1 + draw.random(),
                summary=" ".join(draw.sample(WORDS, 8)),
            )
        )
    (folder / "views").mkdir()
    listed = ", ".join(f"paper_{number}" for number in range(count))
    (folder / "views" / "all.yaml").write_text(
        f"id: all\ntitle: All\nposition: 1\nsections:\n  - {{id: all, title: All, papers: [{listed}]}}\n"
    )


def seconds(*arguments: str) -> float:
    """Wall-clock time of one process of the command line."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "catalog.cli", *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "catalog"
        write_records(folder, count)
        at = ("--catalog", str(folder))
        print(f"{count} records, {os.cpu_count()} cores")
        print(f"build db                          {seconds('build', 'db', *at):7.2f} s")
        for arguments in (
            ("query", "papers", "--mechanism", "cache", "--training", "none", "--limit", "50"),
            ("query", "papers", "--format", "json"),
            ("query", "count", "--by", "family", "--by", "training"),
            ("query", "view", "all", "--format", "csv"),
            ("search", "method-77", "--limit", "20"),
            ("search", "sparze video", "--limit", "20", "--format", "json"),
            ("show", "Method-477"),
        ):
            times = [seconds(*arguments, *at) for _ in range(REPEATS)]
            print(f"{' '.join(arguments)[:56]:<56} {statistics.median(times):7.2f} s")


if __name__ == "__main__":
    main()
