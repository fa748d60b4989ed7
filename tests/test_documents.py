"""What the documents say exists."""

from __future__ import annotations

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
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module


def test_the_lock_names_hashes_and_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "http" not in lock and "--index-url" not in lock and "--find-links" not in lock


def test_no_dataset_image_is_tracked() -> None:
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        tracked = done.stdout.split()
        assert not [name for name in tracked if name.endswith((".jpg", ".jpeg"))]
