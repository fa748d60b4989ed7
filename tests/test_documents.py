"""What the documents say exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    for link in links:
        if not re.match(r"[a-z]+:", link):
            assert (document.parent / link).exists(), link


def test_readme_holds_no_unfilled_place() -> None:
    assert "<!--" not in (ROOT / "README.md").read_text()


def test_modules_named_in_the_documents_exist() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    modules = set(re.findall(r"python -m ([a-z_]+\.[a-z_]+)", text))
    assert "parity.compare" in modules
    for module in modules:
        place = ROOT / Path(*module.split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_the_faults_are_shown_by_tests_that_exist() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    named = set(re.findall(r"`(\w+/test_\w+\.py)`", text))
    assert {path.name for path in (ROOT / "tests" / "faults").glob("test_*.py")} <= {
        Path(name).name for name in named
    }
    assert all((ROOT / "tests" / name).exists() for name in named)


def test_of_ten_thousand_malformed_files_none_went_wrong() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    counts = [sum(kind.values()) for kind in kept["kinds"].values()]
    assert (kept["count"], sum(counts), kept["wrong"]) == (10_000, 10_000, [])


def test_the_verdicts_over_seeds_are_those_that_are_kept() -> None:
    text = (ROOT / "docs" / "equivalence.md").read_text()
    told = re.findall(
        r"^\| ([a-z_-]+) \| (\d+) \| (\w+) \| (\w+) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M
    )
    kept = {}
    for path in (ROOT / "results" / "seeds").glob("*/report.json"):
        report = json.loads(path.read_text())
        metrics = [
            (name, each)
            for pair in report["equivalence"]
            if pair["role"] != "as_published"
            for name, each in pair["metrics"].items()
        ]
        means = {
            kind: max(abs(each["mean"]) for name, each in metrics if name.endswith(kind))
            for kind in ("loss", "accuracy")
        }
        widest = max(abs(bound) for _, each in metrics for bound in each["interval"])
        (by,) = {p["by"] for p in report["equivalence"] if p["role"] != "as_published"}
        kept[path.parent.name] = (
            *(str(len(report["seeds"])), report["verdict"], by),
            *(f"{means['loss']:.1g}", f"{means['accuracy']:.1g}", f"{widest:.2g}"),
        )
        assert by == "ladder" or len(report["seeds"]) >= 32 or report["verdict"] == "inconclusive"
    assert len(kept) >= 4 and {name: tuple(rest) for name, *rest in told} == kept


def test_the_test_over_seeds_keeps_its_5_percent_and_the_page_shows_it() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "equivalence.json").read_text())
    text = (ROOT / "docs" / "equivalence.md").read_text()
    error = (0.05 * 0.95 / kept["trials"]) ** 0.5
    rows = {(each["differences"], str(each["seeds"])): each for each in kept["at_margin"]}
    rows |= {(each["differences"], each["looks"]): each for each in kept["again"]}
    for (differences, _), each in rows.items():
        if not differences.startswith("against the assumption"):
            assert max(each["pass"], each["fail"]) < 0.05 + 3 * error, each
    told = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) % \| ([\d.]+) % \|$", text, re.M)
    assert len(told) > 30
    for differences, seeds, *shares in told:
        each = rows[differences, seeds]
        assert shares == [f"{100 * each[verdict]:.1f}" for verdict in ("pass", "fail")]


def test_of_a_hundred_kills_none_changed_a_file() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "kills_100.json").read_text())
    assert (len(kept["kills"]), kept["exit"], kept["differ"]) == (100, 0, [])
    assert {kill["victim"] for kill in kept["kills"]} == {"all", "command", "worker"}
    text = (ROOT / "docs" / "faults.md").read_text()
    assert f"in {kept['runs']} runs" in text and f"a run's {len(kept['files'])} files" in text


def test_the_lock_names_hashes_and_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "http" not in lock and "--index-url" not in lock and "--find-links" not in lock


def test_no_dataset_image_is_tracked() -> None:
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        tracked = done.stdout.split()
        assert not [name for name in tracked if name.endswith((".jpg", ".jpeg"))]


def test_the_proof_in_the_readme_is_that_of_the_kept_run() -> None:
    kept = ROOT / "results" / "float64-paper"
    left, right = (
        json.loads((kept / side / "recording.json").read_text()) for side in ("keras", "torch")
    )
    losses = [side["steps"]["loss"] for side in (left, right)]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    assert len(losses[0]) == 170 and apart < 1e-10
    ladder = json.loads((kept / "ladder.json").read_text())
    final = [t["absolute"] for t in ladder["tensors"] if t["name"].startswith("final ")]
    assert len(final) == 16 and max(final) < 1e-8
    assert {level["verdict"] for level in ladder["ladder"] if level["precision"] == "float64"} == {
        "pass"
    }
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"differ by at most {apart:.0e} at any step" in text
    said = re.search(r"their final weights by at most (\S+);", text)
    assert said and max(final) <= float(said[1]) < max(final) * 1.5
