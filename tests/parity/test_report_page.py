"""The page of `parity.report`, read as HTML; a browser looks at it in test_report_browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.special import softmax

from parity import cli, compare, explain, reproduce
from parity.criterion import evaluate
from parity.experiment import PROFILES, VARIANTS, Experiment
from parity.report import heatmap, page, samples, seeds
from parity.report.__main__ import main
from parity.report.documents import common
from shared_data.errors import InputError

ROOT = Path(__file__).parents[2]
KEPT = ("paper", "baseline-paper", "float64-paper", "selftest", "explain/image_transforms")
HOSTILE = """<script>alert("1")</script>&'"><img src=x onerror=alert(1)>"""
VOID = {"meta", "img", "br", "link", "use", "path", "line", "circle", "rect", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        return [each for each in self.walk() if each.tag == tag]

    def of(self, style: str) -> list[Element]:
        return [e for e in self.walk() if style in e.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """All of it, what is inside included, white space squeezed."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        yield from self.parts
        for child in self.children:
            yield " "
            yield from child._texts()


class Tree(HTMLParser):
    """The elements of a page; an end tag that does not fit is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.at = Element("", {})
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(made)
        if tag not in VOID:
            self.at = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
            assert self.at.parent
            self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.parts.append(data)


def tree(path: Path) -> Element:
    # An SVG's own elements may be closed or not; they are well-formed XML, tested elsewhere.
    text = re.sub(r"<svg .*?</svg>", "<svg></svg>", path.read_text(), flags=re.DOTALL)
    return Tree(text).root


@pytest.fixture(scope="module")
def faithful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_runs.write_run(tmp_path_factory.mktemp("runs") / "faithful")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    change = report_runs.planted("block3.conv")
    return report_runs.write_run(tmp_path_factory.mktemp("runs") / "faulty", change)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_runs.write_drawn(tmp_path_factory.mktemp("runs") / "drawn")


@pytest.fixture(scope="module")
def kept_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the results that the project keeps, which lack their tensors."""
    folder = tmp_path_factory.mktemp("kept")
    return {
        kept: page.write(ROOT / "results" / kept, out=folder / f"{kept.replace('/', '-')}.html")
        for kept in KEPT
    }


class TestPage:
    def test_the_verdict_comes_first(self, faithful: Path, faulty: Path) -> None:
        for folder, word, style in ((faithful, "PASS", "pass"), (faulty, "FAIL", "fail")):
            found = tree(page.write(folder))
            (verdict,) = found.of("verdict")
            assert verdict.text.split()[1].startswith(word)
            assert style in verdict.attributes["class"]
            order = [each.tag for each in found.walk()]
            before = order[: [id(e) for e in found.walk()].index(id(verdict))]
            assert "table" not in before and "nav" not in before and "h1" in before

    def test_has_a_section_for_everything(self, faithful: Path) -> None:
        found = tree(page.write(faithful))
        assert [each.text for each in found.all("h2")] == [
            "Verdicts",
            "Ladder",
            "Training, step by step",
            "Answers",
            "Arms",
            "Data",
            "Environment",
            "Run it again",
        ]
        links = {e.attributes["href"] for nav in found.all("nav") for e in nav.all("a")}
        assert links == {f"#{each.attributes['id']}" for each in found.all("h2")}

    def test_equal_results_give_equal_bytes_wherever_they_lie(
        self, faithful: Path, tmp_path: Path
    ) -> None:
        elsewhere = shutil.copytree(faithful, tmp_path / "deep" / faithful.name)
        first = page.write(faithful).read_bytes()
        assert page.write(faithful).read_bytes() == first
        assert page.write(elsewhere).read_bytes() == first

    def test_names_are_shown_and_never_run(self, tmp_path: Path) -> None:
        folder = report_runs.write_run(tmp_path / "hostile")
        text = (folder / "report.json").read_text()
        facts = json.loads(text.replace('"fake"', json.dumps(HOSTILE)))
        facts["data"]["source"] = HOSTILE
        facts["arms"][0]["environment"][HOSTILE] = HOSTILE
        facts["pairs"][0]["ladder"][0]["detail"] = HOSTILE
        (folder / "report.json").write_text(json.dumps(facts))
        ladders = json.loads((folder / "ladders.json").read_text())
        ladders["ladders"][0]["tensors"][0].update(name=HOSTILE, problem=HOSTILE, verdict="fail")
        (folder / "ladders.json").write_text(json.dumps(ladders))
        renamed = folder.rename(tmp_path / 'a<b>&"c')
        found = tree(page.write(renamed))
        assert not found.all("script") and not found.all("img")
        assert not [e for e in found.walk() if any(a.startswith("on") for a in e.attributes)]
        assert found.text.count("alert") >= 4
        assert any(HOSTILE in e.text for e in found.all("td"))
        assert any(HOSTILE in e.attributes.get("title", "") for e in found.all("td"))

    def test_asks_for_nothing_from_elsewhere(self, drawn: Path, tmp_path: Path) -> None:
        text = page.write(drawn, images=2, out=tmp_path / "x.html").read_text()
        targets = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)""", text)
        assert {each[:1] for each in targets if not each.startswith("data:image/png")} == {"#"}
        assert all(each.startswith("#") for each in re.findall(r"url\(([^)]*)\)", text))
        assert "@import" not in text and "<script" not in text and "http:" not in text
        assert str(drawn) not in text

    @pytest.mark.parametrize("kept", KEPT)
    def test_kept_results_need_no_tensors(self, kept: str, kept_pages: dict[str, Path]) -> None:
        path = kept_pages[kept]
        found = tree(path)
        assert path.stat().st_size < 2_000_000
        assert str(ROOT) not in path.read_text()
        assert not found.all("img")
        (verdict,) = found.of("verdict")
        assert re.search(r"PASS|Beyond what another seed does", verdict.text)
        _check_outline(found)

    def test_outline_tables_and_figures_are_named(self, faulty: Path, tmp_path: Path) -> None:
        found = tree(page.write(faulty, ROOT / "results/selftest", out=tmp_path / "x.html"))
        _check_outline(found)
        for table in found.all("table"):
            assert table.all("caption")[0].text
            assert all(e.attributes.get("scope") for e in table.all("th")), table.text[:80]
            heads, *_ = table.all("thead")
            width = _width(heads.all("tr")[0])
            for row in table.all("tbody")[0].all("tr"):
                assert _width(row) == width
        drawings = [e for e in found.walk() if e.attributes.get("role") == "img"]
        assert len(drawings) == len(found.all("svg")) > 0
        assert all(len(each.attributes["aria-label"]) > 20 for each in drawings)

    def test_damage_is_refused_with_what_to_do(self, faithful: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no results.*--out"):
            page.write(tmp_path)
        for content, message in (
            ('{"schema": 99, "pairs": []}', "not of schema 1"),
            ('{"schema": 1}', "holds no results"),
            ('{"schema": 1, "pairs": []}', "damaged, or of another version"),
            ("[]", "not of schema 1"),
            ("{", "cannot read"),
        ):
            (tmp_path / "report.json").write_text(content)
            with pytest.raises(InputError, match=message):
                page.write(tmp_path)
            assert not (tmp_path / "report.html").exists()


def _check_outline(found: Element) -> None:
    levels = [int(e.tag[1]) for e in found.walk() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [each.attributes["id"] for each in found.walk() if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    assert {"header", "nav", "main", "footer"} <= {each.tag for each in found.walk()}
    for each in found.walk():
        for name in each.attributes.get("aria-labelledby", "").split():
            assert name in ids


def _width(row: Element) -> int:
    cells = [each for each in row.children if each.tag in ("th", "td")]
    return sum(int(each.attributes.get("colspan", 1)) for each in cells)


class TestHeatmap:
    def test_a_faithful_twin_uses_little_of_every_tolerance(self, faithful: Path) -> None:
        rows = _rows(faithful)
        assert list(rows)[:4] == ["block1.conv", "block1.relu", "block1.pool", "block2.conv"]
        cells = [cell for row in rows.values() for cell in row]
        assert not [cell for cell in cells if "fail" in cell.attributes["class"]]
        assert all(cell.text for cell in cells)

    def test_a_fault_is_marked_where_it_starts_and_red_from_there_on(self, faulty: Path) -> None:
        rows = _rows(faulty)
        assert [name for name in rows if "starts here" in name] == ["block3.conv starts here"]
        red = [name for name, row in rows.items() if any("✕" in cell.text for cell in row[3:5])]
        names = list(rows)
        after = names[names.index("block3.conv starts here") :]
        assert red[0] == "block3.conv starts here" and set(red) <= set(after)
        for name in red:
            assert all(
                ("✕" in cell.text) == ("heat-fail" in cell.attributes["class"])
                for cell in rows[name]
            )

    def test_what_was_not_compared_is_neither_pass_nor_undecided(self) -> None:
        measured = {"precision": "float64", "reason": "", "problem": "", "optional": False}
        numbers = {"absolute": None, "tolerance": None}
        tensors = [
            {**measured, **numbers, "level": "forward", "name": "a", "verdict": "abstain",
             "elements": 0},
            {**measured, "level": "forward", "name": "b", "verdict": "abstain", "elements": 5,
             "absolute": 3.0, "tolerance": 1.0},
            {**measured, "level": "forward", "name": "c", "verdict": "pass", "elements": 5,
             "absolute": 0.5, "tolerance": 1.0},
            {**measured, **numbers, "level": "gradient", "name": "gradient c.kernel",
             "verdict": "fail", "elements": 0, "problem": "missing on the right"},
        ]  # fmt: skip
        found = heatmap.layers(
            {"left": "l", "right": "r", "tensors": tensors, "semantics": [], "origins": []}
        )
        assert found
        cells = {row.name: [(c.text, c.style) for c in row.cells[1:]] for row in found.rows}
        assert cells == {
            "a": [("-", "missing"), ("", "absent")],
            "b": [("? 3x", "heat-abstain"), ("", "absent")],
            "c": [("50 %", "heat-5"), ("✕", "heat-fail")],
        }

    @given(st.floats(1e-300, 1e300))
    def test_a_share_says_which_side_of_the_tolerance_it_is_on(self, part: float) -> None:
        text = heatmap.share(part)
        assert text.endswith("x") == (part > 1)
        if text.endswith(" %"):
            assert abs(float(text[:-2]) / 100 - part) <= 0.05 * part
        elif text.endswith("x") and not text.startswith("10"):
            assert abs(float(text[:-1]) - part) <= 0.05 * part

    @given(st.floats(0, 1e6), st.floats(0, 1e6))
    def test_more_of_a_tolerance_is_never_a_paler_colour(self, one: float, other: float) -> None:
        def step(part: float) -> int:
            level = {"level": "forward", "precision": "float64", "measured": part,
                     "tolerance": 1e6, "detail": "", "verdict": "pass"}  # fmt: skip
            pair = {"left": "l", "right": "r", "ladder": [level]}
            found = heatmap.overview([pair])
            assert found
            return int(found.rows[0].cells[0].style.removeprefix("heat-"))

        low, high = sorted((one, other))
        assert step(low) <= step(high)


def _rows(folder: Path) -> dict[str, list[Element]]:
    """Of the map of layers: cells by the row's heading."""
    _, layers = tree(page.write(folder)).of("heat")
    rows = layers.all("tbody")[0].all("tr")
    return {row.all("th")[0].text: row.all("td") for row in rows}


class TestRunItAgain:
    @settings(max_examples=30, deadline=None)
    @given(
        st.sampled_from(sorted(VARIANTS)),
        st.sampled_from(sorted(PROFILES)),
        st.fixed_dictionaries(
            {},
            optional={
                "seed": st.integers(0, 99),
                "epochs": st.integers(1, 30),
                "learning_rate": st.floats(1e-9, 1.0),
                "width": st.sampled_from([0.125, 0.25, 1 / 3, 1.0]),
                "image_size": st.integers(256, 300),
                "batch_size": st.sampled_from([4, 6, 64]),
                "init": st.sampled_from(["shared", "native"]),
                "data": st.sampled_from(["synthetic", "my faces/here", "--odd"]),
                "ood": st.sampled_from([None, "other"]),
                "head_units": st.sampled_from([None, 64]),
            },
        ),
    )
    def test_the_command_asks_for_the_same_experiment(
        self, variant: str, profile: str, changes: dict[str, Any]
    ) -> None:
        asked = Experiment.of(variant, profile, padding=1, **changes)
        words = [*common.flags(asked.to_dict()), "--padding", "1"]
        if changes.get("data") == "--odd":
            return  # no shell can pass that on either
        typed = shlex.split(common.command("parity.compare", words))
        assert typed[:3] == ["python", "-m", "parity.compare"]
        assert cli.experiments(compare.parse(typed[3:])) == [asked]

    def test_of_a_run(self, faithful: Path) -> None:
        options = compare.parse(_typed(page.write(faithful), "parity.compare"))
        assert cli.experiments(options) == [report_runs.EXPERIMENT]
        assert options.ladder

    def test_of_the_study(self, kept_pages: dict[str, Path]) -> None:
        options = reproduce.parse(_typed(kept_pages["paper"], "parity.reproduce"))
        path = ROOT / "results/paper/arms/lr_10x/torch-p0/recording.json"
        kept = Experiment.from_dict(json.loads(path.read_text())["experiment"])
        assert reproduce._experiment("lr_10x", options.seeds[0], options) == kept

    def test_of_an_explanation(self, kept_pages: dict[str, Path]) -> None:
        typed = _typed(kept_pages["explain/image_transforms"], "parity.explain")
        plan = explain.plan(explain.parse(typed))
        kept = json.loads((ROOT / "results/explain/image_transforms/explain.json").read_text())
        assert plan.base == Experiment.from_dict(kept["experiment"])
        assert list(plan.seeds) == kept["seeds"]
        assert set(plan.conditions) == {each["name"] for each in kept["effects"]}


def _typed(path: Path, module: str) -> list[str]:
    """What a page says to type, after `python -m MODULE`."""
    (command,) = tree(path).all("code")
    words = shlex.split(command.text)
    assert words[:3] == ["python", "-m", module]
    return words[3:]


class TestSamples:
    @given(arrays(np.float64, (5, 3), elements=st.floats(-50, 50)))
    def test_probabilities_are_scipys(self, logits: np.ndarray) -> None:
        np.testing.assert_allclose(samples.probabilities(logits), softmax(logits, axis=1))

    @given(*[arrays(np.float64, (6, 2), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0]))] * 2)
    def test_the_furthest_apart_come_first(self, left: np.ndarray, right: np.ndarray) -> None:
        found = samples.most_disagreeing(left, right)
        apart = [max(abs(a - b) for a, b in zip(*rows, strict=True))
                 for rows in zip(left.tolist(), right.tolist(), strict=True)]  # fmt: skip
        assert sorted(found) == list(range(6))
        assert [(-apart[at], at) for at in found] == sorted((-apart[at], at) for at in found)

    def test_no_image_unless_asked_for_and_then_the_right_ones(
        self, drawn: Path, tmp_path: Path
    ) -> None:
        assert "data:image" not in page.write(drawn).read_text()
        images = tree(page.write(drawn, images=3, out=tmp_path / "x.html")).all("img")
        kept = [report_runs.Recording.read(drawn / arm) for arm in ("keras-p1", "torch-p1")]
        left, right = (softmax(each.tensors["answers/test"], axis=1) for each in kept)
        order = np.argsort(-np.abs(left - right).max(axis=1), kind="stable")
        test = report_runs.load_data(report_runs.EXPERIMENT).test
        assert len(images) == 3
        for at, image in zip(order, images, strict=False):
            label = report_runs.CLASSES[test.labels[at]]
            assert image.attributes["alt"].startswith(f"sample {at + 1}, is {label};")
            content = base64.b64decode(image.attributes["src"].partition(",")[2])
            pixels = np.asarray(Image.open(io.BytesIO(content)))
            np.testing.assert_array_equal(pixels, test.images[test.rows[at]])

    def test_images_that_cannot_be_had_are_refused(self, drawn: Path, tmp_path: Path) -> None:
        bare = shutil.copytree(drawn, tmp_path / "bare")
        (bare / "keras-p1" / "tensors.safetensors").unlink()
        assert page.write(bare).exists()
        with pytest.raises(InputError, match="does not hold the answers"):
            page.write(bare, images=1)
        facts = json.loads((drawn / "report.json").read_text())
        facts["data"]["digest"] = "e" * 64
        other = shutil.copytree(drawn, tmp_path / "other")
        (other / "report.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match="is not what this run was trained on"):
            page.write(other, images=1)


class TestSeeds:
    def test_every_metric_has_its_verdict_and_its_plot(self, tmp_path: Path) -> None:
        folder = report_runs.write_seeds(tmp_path / "seeds")  # too few to decide, though equal
        found = tree(page.write(folder))
        table = next(t for t in found.all("table") if "Paired over 3 seeds" in t.text)
        verdicts = [row.all("td")[0].text for row in table.all("tbody")[0].all("tr")]
        assert verdicts == ["? inconclusive"] * 4
        plots = [f for f in found.all("figure") if "margin" in f.text]
        assert len(plots) == 4
        assert "seeds 8 9 10, float64" in found.text

    def test_plots_are_written_and_repeat(self, tmp_path: Path) -> None:
        folder = report_runs.write_seeds(tmp_path / "seeds", lambda seed: 0.01 * (seed - 8))
        report = json.loads((folder / "report.json").read_text())
        written = seeds.seeds(report, tmp_path)
        assert [path.name for path in written] == ["seeds.png", "seeds.svg"]
        first = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in seeds.seeds(report, tmp_path)] == first
        assert Image.open(written[0]).size[0] > 1000

    def test_pairs_that_could_not_be_judged_have_no_plot(self, tmp_path: Path) -> None:
        folder = report_runs.write_seeds(tmp_path / "seeds", lambda seed: math.nan)
        report = json.loads((folder / "report.json").read_text())
        assert seeds.seeds(report, tmp_path)  # NaN is a number that is not there: gaps
        report["equivalence"][0].update(metrics={}, error="an arm was lost")
        assert seeds.seeds(report, tmp_path / "none") == []
        (folder / "report.json").write_text(json.dumps(report))
        assert "an arm was lost" in tree(page.write(folder)).text


class TestSeveral:
    def test_verdicts_stand_beside_each_other_and_the_worst_counts(
        self, faithful: Path, faulty: Path, tmp_path: Path
    ) -> None:
        found = tree(page.write(faithful, faulty, out=tmp_path / "x.html"))
        first, *rest = found.of("verdict")
        assert "FAIL: 1 of 2 pass" in first.text
        assert len(rest) == 2 and len(found.all("article")) == 2
        table = next(t for t in found.all("table") if "All results" in t.text)
        cells = [[c.text for c in row.children] for row in table.all("tbody")[0].all("tr")]
        assert [(row[0], row[2]) for row in cells] == [
            ("faithful", "✓ pass"),
            ("faulty", "✕ fail"),
        ]


class TestCommand:
    def test_writes_beside_the_results_and_says_where(
        self, faithful: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (faithful / "report.html").unlink(missing_ok=True)
        assert main([str(faithful)]) == 0
        assert capsys.readouterr().out == f"page: {faithful / 'report.html'}\n"
        assert (faithful / "report.html").read_text().startswith("<!doctype html>")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["no/such"], "cannot read no/such"),
            (["results/selftest", "results/selftest"], "the same results twice"),
            (["results/selftest", "--images", "-1"], "--images"),
            (["results/selftest", "--out", "no/such/x.html"], "cannot write no/such/x.html"),
        ],
    )
    def test_bad_requests_are_explained(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert message in said.err and not said.out


def test_a_lost_arm_and_a_loss_that_is_no_number_have_a_page(tmp_path: Path) -> None:
    folder = report_runs.write_run(tmp_path / "lost")
    facts = json.loads((folder / "report.json").read_text())
    facts["verdict"] = facts["pairs"][0]["verdict"] = "error"
    facts["pairs"][0].update(error="torch-p1: killed", criterion={}, ladder=[], ladder_verdict=None)
    facts["arms"][1].update(
        history={metric: [] for metric in facts["arms"][1]["history"]},
        steps={"loss": [None, None], "accuracy": []},
        error="killed",
        **dict.fromkeys(("train", "test", "validation", "parameters", "peak_memory_bytes")),
    )
    (folder / "report.json").write_text(json.dumps(facts))
    found = tree(page.write(folder))
    (verdict,) = found.of("verdict")
    assert "ERROR" in verdict.text and "torch-p1: killed" in found.text


@pytest.mark.workers
def test_recordings_hold_their_answers(small_run: tuple[Any, Path], tmp_path: Path) -> None:
    _, out = small_run
    for arm in ("keras-p0", "torch-p1"):
        kept = report_runs.Recording.read(out / arm)
        test = report_runs.load_data(kept.experiment).test
        answers = kept.tensors["answers/test"]
        assert answers.dtype == kept.experiment.precision
        assert evaluate(answers, test.labels) == kept.evaluation["test"]
    found = tree(page.write(out, out=tmp_path / "x.html", images=1))
    assert len(found.all("img")) == 2  # one of each port
