"""The study's figures and pages, written into a folder."""

from __future__ import annotations

import dataclasses
import json
import re
import string
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from parity import published
from parity.study import pages, render
from parity.study.arms import FRAMEWORKS, published_study
from parity.study.figures import FIGURES, caption, draw, heading, write_figure
from shared_data.errors import InputError

LETTERS = string.ascii_uppercase[:23]


@pytest.fixture(scope="module")
def partial():
    """A study that got what was published; one arm was not run, one did not finish."""
    study = published_study()
    del study["lr_10x"]["torch"]
    arm = study["lr_100x"]["torch"]
    cut = {metric: values[:3] for metric, values in arm.history.items()}
    study["lr_100x"]["torch"] = dataclasses.replace(arm, history=cut)
    object.__setattr__(study["lr_100x"]["torch"], "error", "the loss became nan\nin epoch 4")
    return study


@pytest.fixture(scope="module")
def written(partial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, render.write(partial, folder, "aligned")


def strictly(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


class TestLetters:
    def test_are_the_appendix_s_23(self):
        assert "".join(FIGURES) == LETTERS

    def test_a_to_j_are_the_ten_models(self):
        models = {(variant, side) for variant in published.variants() for side in FRAMEWORKS}
        assert {model for letter in LETTERS[:10] for model in FIGURES[letter]} == models
        assert all(len(FIGURES[letter]) == 1 for letter in LETTERS[:10])

    def test_k_to_o_are_the_twins(self):
        for letter, variant in zip("KLMNO", published.variants(), strict=True):
            assert FIGURES[letter] == ((variant, "keras"), (variant, "torch"))

    @pytest.mark.parametrize(("letters", "side"), [("PQRS", "keras"), ("TUVW", "torch")])
    def test_p_to_w_are_modifications_against_their_baseline(self, letters, side):
        for letter, variant in zip(letters, published.variants()[1:], strict=True):
            assert FIGURES[letter] == (("baseline", side), (variant, side))


class TestFigures:
    def test_all_are_written_as_png_and_svg(self, written):
        folder, _ = written
        names = {path.name for path in (folder / "figures").iterdir()}
        assert names == {f"{letter}.{kind}" for letter in LETTERS for kind in ("png", "svg")}
        for letter in LETTERS:
            with Image.open(folder / "figures" / f"{letter}.png") as image:
                assert image.width == 1100
                assert not {"Software", "Creation Time"} & image.info.keys()
            text = (folder / "figures" / f"{letter}.svg").read_text()
            assert ElementTree.fromstring(text).tag.endswith("svg")
            assert "<dc:date>" not in text

    def test_equal_studies_give_equal_files(self, partial, tmp_path):
        first = [path.read_bytes() for path in write_figure("L", partial, tmp_path)]
        again = [path.read_bytes() for path in write_figure("L", partial, tmp_path)]
        assert first == again

    def test_ours_lies_over_the_published_curve(self):
        ours, theirs = published_study(), published_study()
        history = {m: [v / 2 for v in vs] for m, vs in ours["baseline"]["keras"].history.items()}
        ours["baseline"]["keras"] = dataclasses.replace(ours["baseline"]["keras"], history=history)
        loss, accuracy = draw("A", ours, theirs).axes
        drawn = [list(line.get_ydata()) for line in loss.lines]
        expected = published.history("baseline", "keras")
        assert drawn[:2] == [expected["loss"], expected["val_loss"]]
        assert drawn[2:] == [history["loss"], history["val_loss"]]
        assert list(accuracy.lines[2].get_ydata()) == history["accuracy"]

    def test_two_models_have_a_row_each_for_training_and_validation(self):
        study = published_study()
        figure = draw("W", study, study)
        lines = [[list(line.get_ydata()) for line in axes.lines[2:]] for axes in figure.axes]
        sides = [published.history(v, "torch") for v in ("baseline", "image_transforms")]
        metrics = ("loss", "accuracy", "val_loss", "val_accuracy")
        assert lines == [[side[metric] for side in sides] for metric in metrics]

    def test_losses_far_apart_are_on_a_logarithm_that_is_labelled(self):
        study = published_study()
        for letter, scale in (("E", "log"), ("C", "linear")):
            axes = draw(letter, study, study).axes[0]
            assert axes.get_yscale() == scale
            assert ("logarithmic" in axes.get_ylabel()) == (scale == "log")

    def test_captions_say_what_is_missing(self, partial):
        theirs = published_study()
        assert caption("A", partial, theirs) == "Thin and dark: ours; broad and pale: as published."
        assert caption("L", partial, theirs).endswith("PyTorch 10xLR was not run here.")
        assert caption("F", partial, theirs).endswith("did not finish: the loss became nan.")
        assert caption("A", partial, {}).endswith("No curve of Keras Reference was published.")

    @pytest.mark.parametrize("letter", ["A", "K"])
    def test_draw_with_either_side_missing(self, letter):
        for sides in (({}, published_study()), (published_study(), {}), ({}, {})):
            assert draw(letter, *sides).axes

    @pytest.mark.parametrize("letter", ["A", "N", "V"])
    def test_legend_and_caption_fit_into_the_figure(self, letter, partial):
        figure = draw(letter, partial, published_study())
        for part in (*figure.legends, *figure.texts):
            box = part.get_window_extent(figure.canvas.get_renderer())
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
            assert box.y0 >= 0 and box.y1 <= figure.bbox.y1

    def test_headings(self):
        assert heading("P") == "Keras Reference against Keras 10xLR"


class TestFolder:
    def test_holds_every_table_three_ways(self, written):
        folder, summary = written
        for number in range(1, 6):
            assert (folder / f"table{number}.md").read_text().startswith(f"**Table {number}.**")
            assert (folder / f"table{number}.csv").read_text().startswith("row,column,ours")
            table = strictly((folder / f"table{number}.json").read_text())
            assert table == summary["tables"][number - 1]

    def test_summary_is_strict_json_and_all_that_the_section_needs(self, written):
        folder, summary = written
        assert strictly((folder / "summary.json").read_text()) == summary
        assert strictly((folder / "judgements.json").read_text())["judgements"]
        assert render.section(folder, "results") == pages.section(summary, "results")
        assert summary["mode"] == "aligned"
        assert summary["table_1_exact"] is True

    def test_links_of_the_pages_lead_somewhere(self, written):
        folder, summary = written
        for text in (pages.section(summary, "."), (folder / "figures.md").read_text()):
            links = re.findall(r"\]\(([^)]+)\)", text)
            assert links
            assert all((folder / link).exists() for link in links)

    def test_section_shows_ours_beside_published_and_what_is_missing(self, written):
        lines = render.section(written[0], ".").splitlines()
        (row,) = (line for line in lines if line.startswith("| PyTorch 10xLR | - / 99.71"))
        assert row.count(" / ") == 6
        (row,) = (line for line in lines if line.startswith("| Keras Image Transforms | 99.32"))
        assert "99.22 / 99.22" in row
        assert "No answer hangs on this definition" in "\n".join(lines)

    def test_judgements_page_has_every_reason(self, written):
        folder, summary = written
        text = (folder / "judgements.md").read_text()
        for each in summary["judgements"]:
            assert each["ours"]["because"].splitlines()[0] in text
        assert "PyTorch 10xLR was not run" in text
        assert '**yes**: "has merit in improving the Keras Reference Model" (6)' in text

    def test_a_folder_without_summary_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no summary"):
            render.section(tmp_path, ".")
        (tmp_path / "summary.json").write_text('{"schema": 0}')
        with pytest.raises(InputError, match="schema"):
            render.section(tmp_path, ".")


class TestPlaced:
    TEXT = "# a\n\n## Results\n\nold\n\n### deeper\n\nold too\n\n## Next\n\nkept\n"

    def test_replaces_to_the_next_heading_of_its_level(self):
        text = pages.placed(self.TEXT, "## Results", "new\n")
        assert text == "# a\n\n## Results\n\nnew\n\n## Next\n\nkept\n"
        assert pages.placed(text, "## Results", "new\n") == text

    def test_replaces_to_the_end(self):
        assert pages.placed(self.TEXT, "## Next", "new").endswith("## Next\n\nnew\n")

    @pytest.mark.parametrize("text", ["", "## Results\n\n## Results\n"])
    def test_a_heading_that_is_not_there_once_is_refused(self, text):
        with pytest.raises(InputError, match="expected once"):
            pages.placed(text, "## Results", "new")
