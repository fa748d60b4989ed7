"""Choose among candidates: each layer in exactly one, and both graphs hang together alike.

First by the graphs alone: a candidate stays if what precedes and follows its layers can be matched
likewise. What several choices satisfy is a `Doubt`, whose choices are ordered by names and order.
Where that leaves nothing, because the graphs differ or could not be followed, layers are aligned by
their order (dynamic programming), what is left by its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from parity.transfer.candidates import Candidate, Side
from parity.transfer.units import Unit

LIMIT = 24  # choices of one doubt: all orders of four
MARGIN = 0.25  # by which names must speak for one choice, in words or numbers of one layer
STEPS = 20000  # of a search for further choices


@dataclass(frozen=True)
class Doubt:
    """Choices between which the graphs do not decide, the likeliest first."""

    choices: tuple[tuple[Candidate, ...], ...]


@dataclass
class Found:
    """The candidates chosen; `doubts` hold the first of their choices among them."""

    chosen: list[Candidate] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    by_graph: bool = True


def choose(
    keras: Side, torch: Side, candidates: Sequence[Candidate], joined: Sequence[Candidate] = ()
) -> Found:
    """The best choice; it leaves layers out where they have no counterpart, or `joined` ones.

    `joined`: layers of which one stands for several, and that no rule carries. Where layers are
    aligned they keep their places, so that none of them is taken for another.
    """
    units = {unit for each in candidates for unit in each.units}
    by_graph = _Graphs(keras.having(units), torch.having(units)).solve(candidates)
    if by_graph:
        return by_graph
    units |= {unit for each in joined for unit in each.units}
    return _align(keras.having(units), torch.having(units), candidates, joined)


class _Graphs:
    """The search by the graphs."""

    def __init__(self, keras: Side, torch: Side) -> None:
        self.webs = (keras.web, torch.web)
        self.units = (keras.units, torch.units)

    def solve(self, candidates: Sequence[Candidate]) -> Found | None:
        """None where no choice satisfies both graphs."""
        if not all(web.followed for web in self.webs):
            return None
        alive = set(self._as_deep(candidates))
        if not self._propagate(alive):
            return None
        found = Found()
        for part in self._components(alive):
            if len(part) == 1:
                found.chosen += part
                continue
            doubt = self._choices(part)
            if doubt is None:
                return None
            found.chosen += doubt.choices[0]
            if len(doubt.choices) > 1:
                found.doubts.append(doubt)
        return found

    def _as_deep(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Layers on one side stand as deep as on the other, where none stands for several."""
        single = all(len(c.units) == 2 for c in candidates)
        for each in candidates:
            ours, theirs = each.keras[0], each.torch[0]
            deep = [w.depth.get(u) for w, u in zip(self.webs, (ours, theirs), strict=True)]
            if not single or each.keras[0].loose or each.torch[0].loose or deep[0] == deep[1]:
                yield each

    def _propagate(self, alive: set[Candidate]) -> bool:
        """Drop what cannot hold until nothing changes; False if a layer has no candidate left."""
        while True:
            self._index(alive)
            dropped = {c for c in alive if not self._supported(c)}
            for covering in self.by_unit.values():
                left = [c for c in covering if c not in dropped]
                if len(left) == 1:
                    dropped |= {
                        other
                        for own in left[0].units
                        for other in self.by_unit[own]
                        if other is not left[0]
                    }
                elif not left:
                    return False
            alive -= dropped
            covered = {unit for c in alive for unit in c.units}
            if not all(unit in covered for side in self.units for unit in side):
                return False
            if not dropped:
                return True

    def _index(self, alive: Iterable[Candidate]) -> None:
        self.by_unit: dict[Unit, list[Candidate]] = {}
        self.pairs: set[tuple[Unit, Unit]] = set()
        for each in alive:
            for unit in each.units:
                self.by_unit.setdefault(unit, []).append(each)
            self.pairs |= {(a, b) for a in each.keras for b in each.torch}

    def _supported(self, candidate: Candidate) -> bool:
        """Whether each neighbour of one side's layers can be matched to one of the other's."""
        if not all(unit.calls for unit in candidate.units):
            return True
        for side in ("before", "after"):
            ours = self.webs[0].near(candidate.keras, side)
            theirs = self.webs[1].near(candidate.torch, side)
            ends = [{e for e in near if isinstance(e, str)} for near in (ours, theirs)]
            loose = any(unit.loose for unit in candidate.units)
            if ends[0] != ends[1] and not loose:
                return False
            a = [unit for unit in ours if isinstance(unit, Unit) and not unit.loose]
            b = [unit for unit in theirs if isinstance(unit, Unit) and not unit.loose]
            if not all(any((x, y) in self.pairs for y in b) for x in a):
                return False
            if not all(any((x, y) in self.pairs for x in a) for y in b):
                return False
        return True

    def _components(self, alive: Iterable[Candidate]) -> list[list[Candidate]]:
        """Candidates in parts that can be decided each by itself: what is sure, and each doubt."""
        alive = sorted(alive, key=lambda c: [[u.at for u in c.keras], [u.at for u in c.torch]])
        parts: dict[Unit, list[Candidate]] = {}
        for each in alive:
            touched = {id(parts[unit]): parts[unit] for unit in each.units if unit in parts}
            self._merge(parts, [*touched.values(), [each]])
        undecided = True
        while undecided:
            undecided = False
            distinct = {id(part): part for part in parts.values() if len(part) > 1}
            for one, other in combinations(distinct.values(), 2):
                linked = self._linked(one, other)
                if linked and not all(self._agree(a, b) for a in one for b in other):
                    self._merge(parts, [one, other])
                    undecided = True
                    break
        return list({id(part): part for part in parts.values()}.values())

    def _merge(self, parts: dict[Unit, list[Candidate]], several: list[list[Candidate]]) -> None:
        merged = [candidate for part in several for candidate in part]
        parts |= {unit: merged for candidate in merged for unit in candidate.units}

    def _linked(self, one: list[Candidate], other: list[Candidate]) -> bool:
        """Whether any layer of one precedes or follows any of the other."""
        units = [{unit for c in part for unit in c.units} for part in (one, other)]
        return any(
            near in units[1]
            for unit in units[0]
            for web in self.webs
            for side in ("before", "after")
            for near in (web.near((unit,), side) if unit in web.before else ())
        )

    def _choices(self, part: list[Candidate]) -> Doubt | None:
        """All choices of a component, up to a limit, the likeliest first."""
        wanted = list(dict.fromkeys(unit for c in part for unit in c.units))
        found: list[tuple[Candidate, ...]] = []
        left = STEPS

        def search(chosen: list[Candidate], open_: list[Candidate]) -> None:
            nonlocal left
            left -= 1
            if len(found) >= LIMIT or left < 0:
                return
            taken = {unit for c in chosen for unit in c.units}
            free = [unit for unit in wanted if unit not in taken]
            if not free:
                found.append(tuple(chosen))
                return
            counts = [(sum(unit in c.units for c in open_), unit.at, unit) for unit in free]
            _, _, unit = min(counts, key=lambda each: each[:2])
            options = [c for c in open_ if unit in c.units]
            for option in sorted(options, key=_preference):
                if all(self._agree(option, other) for other in chosen):
                    own = set(option.units)
                    search([*chosen, option], [c for c in open_ if not own.intersection(c.units)])

        search([], part)
        return Doubt(decided(found)) if found else None

    def _agree(self, one: Candidate, other: Candidate) -> bool:
        """Whether the two hang together on both sides or on neither."""
        if any(u.loose or not u.calls for u in (*one.units, *other.units)):
            return True
        for side in ("before", "after"):
            linked = [
                bool(set(web.near(a, side)).intersection(b))
                for web, a, b in zip(
                    self.webs, (one.keras, one.torch), (other.keras, other.torch), strict=True
                )
            ]
            if linked[0] != linked[1]:
                return False
        return True


def _preference(candidate: Candidate) -> tuple[float, ...]:
    apart = abs(candidate.keras[0].at - candidate.torch[0].at)
    return (candidate.cost, -candidate.words, -candidate.numbers, apart)


def decided(choices: Sequence[Sequence[Candidate]]) -> tuple[tuple[Candidate, ...], ...]:
    """Choices ordered by likelihood; one alone where names, or what would be lost, decide.

    Words decide by themselves. Numbers do only where the order of the layers agrees: counting
    begins at 0 with some and at 1 with others.
    """
    rated = sorted((_rating(choice), at) for at, choice in enumerate(choices))
    ordered = [tuple(choices[at]) for _, at in rated]
    if len(rated) < 2:
        return tuple(ordered)
    (cost, words, turns, numbers), *others = [rating for rating, _ in rated]
    if all(each[0] > cost or each[1] >= words + MARGIN for each in others):
        return (ordered[0],)
    rivals = [each for each in others if each[0] == cost and each[1] < words + MARGIN]
    if all(each[1:3] >= (words, turns) and each[3] >= numbers + MARGIN for each in rivals):
        return (ordered[0],)
    return tuple(ordered)


def _rating(choice: Sequence[Candidate]) -> tuple[float, float, int, float]:
    """Less is likelier: what is lost, words, how many layers change places, numbers."""
    ordered = sorted(choice, key=lambda c: c.keras[0].at)
    places = [unit.at for c in ordered for unit in c.torch]
    turns = sum(a > b for at, a in enumerate(places) for b in places[at + 1 :])
    return (
        round(sum(c.cost for c in choice), 6),
        -round(sum(c.words for c in choice), 6),
        turns,
        -round(sum(c.numbers for c in choice), 6),
    )


def _align(
    keras: Side, torch: Side, candidates: Sequence[Candidate], joined: Sequence[Candidate]
) -> Found:
    """As many layers as can be matched in one order, at the least cost; then those left over."""
    ours, theirs = keras.units, torch.units
    place = {unit: at for side in (ours, theirs) for at, unit in enumerate(side)}
    ending: dict[tuple[int, int], list[Candidate]] = {}
    for each in (*candidates, *joined):
        spans = [sorted(place[unit] for unit in group) for group in (each.keras, each.torch)]
        if all(span == list(range(span[0], span[-1] + 1)) for span in spans):
            ending.setdefault((spans[0][-1] + 1, spans[1][-1] + 1), []).append(each)
    Best = tuple[float, Candidate | None, tuple[int, int]]
    table: dict[tuple[int, int], Best] = {(0, 0): (0.0, None, (0, 0))}
    for i in range(len(ours) + 1):
        for j in range(len(theirs) + 1):
            if i == j == 0:
                continue
            steps: list[Best] = [
                (table[b][0], None, b) for b in ((i - 1, j), (i, j - 1)) if min(b) >= 0
            ]
            for c in ending.get((i, j), ()):
                before = (i - len(c.keras), j - len(c.torch))
                gain = len(c.units) + 0.2 * c.words + 0.1 * c.numbers - 0.3 * c.cost
                steps.append((table[before][0] + gain, c, before))
            table[i, j] = max(steps, key=lambda step: step[0])
    chosen: list[Candidate] = []
    at = (len(ours), len(theirs))
    while at != (0, 0):
        _, candidate, before = table[at]
        chosen += [candidate] if candidate else []
        at = before
    chosen.reverse()
    chosen += _left_over(keras, torch, candidates, chosen)
    chosen = sorted((c for c in chosen if c.rule), key=lambda c: c.keras[0].at)
    return Found(chosen, by_graph=False)


def _left_over(
    keras: Side, torch: Side, candidates: Sequence[Candidate], chosen: Sequence[Candidate]
) -> list[Candidate]:
    taken = {unit for c in chosen for unit in c.units}
    partner = {a: set(c.torch) for c in chosen for a in c.keras}
    free = [c for c in candidates if not taken.intersection(c.units)]

    def rating(candidate: Candidate) -> tuple[float, ...]:
        near = 0
        for side in ("before", "after"):
            theirs = set(torch.web.near(candidate.torch, side))
            for unit in keras.web.near(candidate.keras, side):
                same = {unit} if isinstance(unit, str) else partner.get(unit, set())
                near += bool(theirs & same)
        return (-near, *_preference(candidate))

    found: list[Candidate] = []
    for each in sorted(free, key=rating):
        if not taken.intersection(each.units):
            found.append(each)
            taken.update(each.units)
    return found
