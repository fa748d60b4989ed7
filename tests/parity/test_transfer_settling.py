"""Doubts settled by the calls that a mapping reaches, on graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity import transfer
from parity.check.graph import Graph
from parity.transfer import Mapping
from tests.parity.test_transfer_mapping import Maker, maker, pairs, parallel

KERAS, TORCH = ["conv2d", "conv2d_1", "dense"], ["b.0", "b.1", "h"]


class Counted:
    """What is reached, by a function of the mapping, and how often that was asked."""

    def __init__(self, reached: Callable[[Mapping], set[str]]) -> None:
        self.reached, self.runs = reached, 0

    def __call__(self, mapping: Mapping) -> set[str]:
        assert not mapping.ambiguous
        self.runs += 1
        return self.reached(mapping)


def doubtful() -> Mapping:
    return transfer.find(parallel("keras", KERAS), parallel("torch", TORCH))


def test_numbers_settle_a_doubt() -> None:
    every = {"conv2d", "conv2d_1", "add", "global_average_pool", "dense"}
    reached = Counted(lambda m: every if pairs(m)["conv2d"] == "b.1" else set())
    settled = transfer.settle(doubtful(), reached)
    assert pairs(settled) == {"conv2d": "b.1", "conv2d_1": "b.0", "dense": "h"}
    assert not settled.ambiguous and not settled.undecided and reached.runs == 2


def test_choices_that_are_all_right_are_equivalent_and_end_at_once() -> None:
    reached = Counted(lambda m: {"dense"})  # the output
    settled = transfer.settle(doubtful(), reached)
    assert pairs(settled)["conv2d"] == "b.0" and not settled.undecided and reached.runs == 1


def test_what_numbers_do_not_tell_is_said_and_the_likeliest_kept() -> None:
    settled = transfer.settle(doubtful(), Counted(lambda m: set()))
    assert pairs(settled)["conv2d"] == "b.0" and not settled.ambiguous
    assert settled.undecided == ("conv2d -> b.0 or conv2d -> b.1",)
    assert any("numbers do not tell" in note for note in settled.notes)


def test_many_doubts_are_settled_one_after_another_in_the_order_of_the_calls() -> None:
    def blocks(framework: str, names: Sequence[str]) -> Graph:
        make = maker(framework)
        x, channels = "input:0", 3
        for at in range(0, 20, 2):
            pair = [make.conv(name, x, channels, 4) for name in names[at : at + 2]]
            x, channels = make.call("add", *pair, shape=make.map(8, 4)), 4
        return make.graph(x)

    keras = blocks("keras", [f"conv2d_{n}" for n in range(20)])
    mapping = transfer.find(keras, blocks("torch", [f"b.{n}" for n in range(20)]))
    wanted = {f"conv2d_{n}": f"b.{n + 1 if n % 2 == 0 else n - 1}" for n in range(20)}

    def reached(mapping: Mapping) -> set[str]:
        """A node counts where all before it is right."""
        got, found = pairs(mapping), set[str]()
        for node in keras.nodes:
            before = all(name in found or name == "input:0" for name in node.inputs)
            if before and got.get(node.name) == wanted.get(node.name):
                found.add(node.name)
        return found

    counted = Counted(reached)
    assert pairs(transfer.settle(mapping, counted)) == wanted
    assert counted.runs <= 11


def test_no_pair_is_run_more_often_than_the_limit() -> None:
    def wide(framework: str, number: int) -> Graph:
        make = Maker(framework, (6,))
        ends = [make.dense(f"d{n}", "input:0", 6, 6) for n in range(number)]
        return make.graph(make.call("add", *ends, shape=(6,)))

    reached = Counted(lambda m: set())
    transfer.settle(transfer.find(wide("keras", 12), wide("torch", 12)), reached, limit=40)
    assert reached.runs <= 40
