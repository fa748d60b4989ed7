"""Numbers that one side alone trains or freezes fail; what could not be mapped abstains."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from parity import transfer
from parity.check.ends import Outputs
from parity.check.graph import Graph
from parity.check.structure import Alone
from parity.ladder.results import LevelResult
from tests.parity.test_transfer_mapping import Maker

NONE = Outputs(())


def net(framework: str, *spare: tuple[str, tuple[int, ...]], bias: bool = True) -> Graph:
    """A dense layer, and parameters beside it that no call of a known kind uses."""
    made = Maker(framework, (3,))
    graph = made.graph(made.dense("head", "input:0", 3, 2))
    for layer, shape in spare:
        made.own(layer, "own", shape)
    kept = [each for each in made.parameters if bias or each.role != "bias"]
    return replace(graph, parameters=tuple(kept))


def frozen(graph: Graph, *roles: str) -> Graph:
    parameters = [
        replace(each, trained=each.trained and each.role not in roles) for each in graph.parameters
    ]
    return replace(graph, parameters=tuple(parameters))


def alone(keras: Graph, torch: Graph, unread: Collection[str] = ()) -> Alone:
    """What is on one side alone, if something depends on all but what is `unread`."""

    def depends(side: str, names: Sequence[str]) -> set[str]:
        return set(names) - set(unread)

    mapping = transfer.find(net("keras", bias=_biased(keras)), net("torch", bias=_biased(torch)))
    return Alone.of(keras, torch, mapping, depends)


def _biased(graph: Graph) -> bool:
    return any(each.role == "bias" for each in graph.parameters)


def said(result: LevelResult) -> tuple[str, str]:
    return result.verdict, result.detail


def test_where_every_number_has_its_counterpart_it_passes() -> None:
    found = alone(net("keras"), net("torch"))
    assert said(found.result(NONE, ())) == ("pass", "every trained number has its counterpart")
    assert not found.origins() and not found.notes() and found.numbers() == 0


@pytest.mark.parametrize(
    ("keras", "torch", "text", "origin"),
    [
        (True, False, "Keras alone trains head/bias [2]", ("head", "")),
        (False, True, "PyTorch alone trains head.bias [2]", ("", "head")),
    ],
)
def test_a_bias_on_one_side_alone_fails_and_is_named(
    keras: bool, torch: bool, text: str, origin: tuple[str, str]
) -> None:
    found = alone(net("keras", bias=keras), net("torch", bias=torch))
    assert said(found.result(NONE, ())) == ("fail", text)
    (start,) = found.origins()
    assert (start.keras, start.torch) == origin and start.level == "structure"
    assert found.numbers() == 2 and not found.unknown


@pytest.mark.parametrize("side", ["keras", "torch"])
def test_what_nothing_reads_is_listed_and_decides_nothing(side: str) -> None:
    graphs = {each: net(each, *[("unused", (5,))] * (each == side)) for each in ("keras", "torch")}
    name = graphs[side].parameters[-1].name
    found = alone(graphs["keras"], graphs["torch"], unread=[name])
    assert found.result(NONE, ()).verdict == "pass" and not found.origins()
    assert name in found.notes()[0] and found.numbers() == 0
    assert name in found.names(side)
    assert (
        alone(graphs["keras"], graphs["torch"]).result(NONE, ()).verdict == "fail"
    )  # where something does


def test_a_constant_on_one_side_is_no_trained_number() -> None:
    torch = frozen(net("torch", ("mask", (4, 4))), "own")
    found = alone(net("keras"), torch)
    assert found.result(NONE, ()).verdict == "pass" and "mask.own" in found.notes()[0]


@pytest.mark.parametrize(
    ("keras", "torch", "text"),
    [
        ((), ("weight",), "Keras trains what PyTorch does not: head.weight"),
        (("kernel",), (), "PyTorch trains head.weight, which Keras does not"),
    ],
)
def test_a_number_that_is_frozen_on_one_side_fails(
    keras: Sequence[str], torch: Sequence[str], text: str
) -> None:
    found = alone(frozen(net("keras"), *keras), frozen(net("torch"), *torch))
    assert said(found.result(NONE, ())) == ("fail", text)
    assert found.origins()[0].text == text


def test_what_is_frozen_on_both_sides_passes() -> None:
    found = alone(frozen(net("keras"), "kernel"), frozen(net("torch"), "weight"))
    assert found.result(NONE, ()).verdict == "pass"


def test_numbers_left_over_on_both_sides_may_be_each_others() -> None:
    """That they could not be mapped is not that they differ."""
    found = alone(net("keras", ("curve", (4, 8))), net("torch", ("bend", (32,))))
    verdict, detail = said(found.result(NONE, ()))
    assert found.unknown and verdict == "abstain"
    assert "curve/own" in detail and "bend.own" in detail and "--map" in detail
    assert not found.origins()


def test_of_unequal_amounts_one_side_holds_some_alone() -> None:
    found = alone(net("keras", ("curve", (4, 8))), net("torch", ("bend", (33,))))
    assert found.unequal and found.result(NONE, ()).verdict == "fail" and found.origins()


@pytest.mark.parametrize("side", ["keras", "torch"])
def test_what_no_run_shows_abstains_unless_it_is_allowed(side: str) -> None:
    graphs = {each: net(each) for each in ("keras", "torch")}
    graphs[side] = replace(graphs[side], semantics={"terms": ["head: L2 0.01"]})
    found = alone(graphs["keras"], graphs["torch"])
    verdict, detail = said(found.result(NONE, ()))
    assert verdict == "abstain" and "head: L2 0.01" in detail and "--allow regularisers" in detail
    verdict, detail = said(found.result(NONE, ["regularisers"]))
    assert verdict == "pass" and "head: L2 0.01" in detail  # and names it
    assert found.result(NONE, ["dropout"]).verdict == "abstain"


def test_a_doubt_about_the_outputs_keeps_a_pass_back_and_hides_no_failure() -> None:
    doubt = Outputs((), doubts=("output 0 may be transposed",))
    found = alone(net("keras"), net("torch"))
    assert said(found.result(doubt, ["regularisers"])) == ("abstain", "output 0 may be transposed")
    assert alone(net("keras"), net("torch", bias=False)).result(doubt, ()).verdict == "fail"
