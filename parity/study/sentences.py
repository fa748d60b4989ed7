"""What the report itself says, beside what its rules say: of our numbers and of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from parity.study.arms import published_study
from parity.study.judgements import Judgement, judge_study


@dataclass(frozen=True)
class Sentence:
    """One of the report's own judgements: `says` is yes or no, `place` a section."""

    says: str
    quote: str
    place: str


@dataclass(frozen=True)
class Comparison:
    """One judgement of ours, the same rule applied to the published numbers, and the sentence."""

    ours: Judgement
    published: Judgement | None  # None for a variant that the report does not have
    sentence: Sentence | None  # None where the report does not say

    @property
    def differs(self) -> bool:
        """Whether the report's rule, applied to its own numbers, contradicts its sentence."""
        if self.published is None or self.sentence is None:
            return False
        return self.published.verdict != self.sentence.says

    def to_dict(self) -> dict[str, Any]:
        """`rule`, `variant` and `framework` once, then the three sides."""
        about = dict(zip(("rule", "variant", "framework"), self.ours.key, strict=True))
        said = None if self.sentence is None else asdict(self.sentence)
        return {
            **about,
            "ours": _answer(self.ours),
            "published": _answer(self.published),
            "report": said,
            "differs": self.differs,
        }


def _answer(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {name: getattr(judgement, name) for name in ("verdict", "because", "numbers")}


def beside_report(judgements: Sequence[Judgement]) -> list[Comparison]:
    """Each judgement beside the published numbers' and the report's."""
    published = {each.key: each for each in judge_study(published_study())}
    return [
        Comparison(each, published.get(each.key), sentences().get(each.key)) for each in judgements
    ]


@cache
def sentences() -> dict[tuple[str, str, str | None], Sentence]:
    """The report's sentences (`data/report_sentences.json`) by `Judgement.key`."""
    text = resources.files("parity").joinpath("data/report_sentences.json").read_text("utf-8")
    return {
        (row["rule"], row["variant"], framework): Sentence(row["says"], row["quote"], row["place"])
        for row in json.loads(text)
        for framework in row["frameworks"]
    }
