"""The pytest plugin (entry point `pytest11`). It loads no framework when pytest starts.

    @parity.parametrize_with_parity_checks([(build_keras, build_torch)])
    def test_port(check):
        check()

gives one test per level. `pytest --parity-pair model.keras=port.py:build` does so without a test
file. `@pytest.mark.parity(level="forward")` sets the last level that the fixture `parity` climbs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parity.check import LEVELS
from parity.cli import shape

if TYPE_CHECKING:
    from parity.check.report import CheckReport

PASS, FAIL = "pass", "fail"
Builder = str | Callable[[], Any]


@dataclass(eq=False)
class Pair:
    """A Keras and a PyTorch builder, checked once, whichever test asks first.

    Builders are functions without arguments, or what `python -m parity.check` takes.
    """

    keras: Builder
    torch: Builder
    options: dict[str, Any] = field(default_factory=dict)
    refused: Exception | None = None  # why there is no report

    @property
    def name(self) -> str:
        """Readable in a test's id: `vgg16-VGG16`."""
        return f"{_name(self.keras)}-{_name(self.torch)}"

    @cached_property
    def report(self) -> CheckReport:
        from parity.check import pairs  # loads what a check needs, now that one runs

        if self.refused is not None:
            raise self.refused
        try:
            return pairs.check(self.keras, self.torch, **self.options)
        except Exception as error:
            self.refused = error
            raise


@dataclass
class Check:
    """One level of one pair, to be called in a test. Raises `AssertionError` with the report."""

    pair: Pair
    level: str
    expected: str | None = None  # why it is expected to fail

    def __call__(self) -> None:
        report = self.pair.report
        found = [each for each in report.levels if each.level == self.level]
        if not found:
            pytest.skip(f"the pair has nothing to compare at the level {self.level}")
        failed = [each for each in found if each.verdict == FAIL]
        undecided = [each for each in found if each.verdict not in (PASS, FAIL)]
        if self.expected is not None:
            if failed:
                pytest.xfail(self.expected)
            raise AssertionError(
                f"{self.pair.name}: {self.level} is listed in expected_failed_checks "
                f"({self.expected}), but does not fail: remove the stale entry"
            )
        if failed:
            raise AssertionError(f"{failed[0].detail}\n\n{report.text()}")
        if undecided:
            pytest.skip(f"undecided: {undecided[0].detail}")


def parametrize_with_parity_checks(
    pairs: Iterable[tuple[Builder, Builder]],
    *,
    expected_failed_checks: Mapping[str, str] | None = None,
    level: str = "trajectory",
    **options: Any,
) -> pytest.MarkDecorator:
    """One test per pair and level, with a parameter `check` to call.

    Args:
        pairs: (Keras builder, PyTorch builder); functions without arguments, or strings as
            `python -m parity.check` takes them.
        expected_failed_checks: why a level is known to fail, by its name (`"buffers"`), or by pair
            and name (`"vgg16-VGG16:buffers"`). An entry that does not fail, or names no level of
            these pairs, is reported as stale.
        level: the last level to climb.
        options: as `parity.check_pair` takes them.

    Raises:
        ValueError: an entry of `expected_failed_checks` names no level of these pairs.
    """
    expected = dict(expected_failed_checks or {})
    checks: list[Any] = []
    known: set[str] = set()
    for keras, torch in pairs:
        pair = Pair(keras, torch, {"level": level, **options})
        for each in _levels(level):
            keys = (f"{pair.name}:{each}", each)
            known.update(keys)
            reason = next((expected[key] for key in keys if key in expected), None)
            checks.append(pytest.param(Check(pair, each, reason), id=f"{pair.name}-{each}"))
    stale = [key for key in expected if key not in known]
    if stale:
        raise ValueError(
            f"expected_failed_checks: {', '.join(stale)}: no such check here. Known: "
            f"{', '.join(sorted(known))}"
        )
    return pytest.mark.parametrize("check", checks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "Keras / PyTorch parity")
    group.addoption(
        "--parity-pair",
        action="append",
        default=[],
        metavar="KERAS=TORCH",
        help="check a pair at every level, without a test file",
    )
    group.addoption(
        "--parity-input-shape",
        action="append",
        type=shape,
        default=[],
        metavar="224,224,3",
        help="of --parity-pair's models, as Keras sees it, without the batch; once per input",
    )
    group.addoption(
        "--parity-report", metavar="DIR", help="write the report of every pair that was checked"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "parity(level): the last level that the fixture `parity` climbs"
    )
    for text in config.getoption("--parity-pair"):
        if "=" not in text:
            raise pytest.UsageError(f"--parity-pair: expected KERAS=TORCH, got {text!r}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --parity-pair alone, nothing else is collected."""
    named = config.args_source == pytest.Config.ArgsSource.ARGS
    return True if config.getoption("--parity-pair") and not named else None


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    for text in config.getoption("--parity-pair"):
        keras, _, torch = text.partition("=")
        shapes = tuple(config.getoption("--parity-input-shape"))
        pair = Pair(keras, torch, {"shapes": shapes, "level": LEVELS[-1]})
        parent = PairNode.from_parent(session, name=text, nodeid=text, pair=pair)
        items.extend(session.genitems(parent))  # and they count as collected


class PairNode(pytest.Collector):
    """A pair of the command line."""

    def __init__(self, *, pair: Pair, **more: Any) -> None:
        super().__init__(**more)
        self.pair = pair

    def collect(self) -> Iterator[pytest.Item]:
        for level in LEVELS:
            check = Check(self.pair, level)
            yield LevelItem.from_parent(self, name=level, check=check)


class LevelItem(pytest.Item):
    """One level of a pair of the command line."""

    def __init__(self, *, check: Check, **more: Any) -> None:
        super().__init__(**more)
        self.check = check

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from shared_data.errors import InputError

        if excinfo.errisinstance((AssertionError, InputError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return Path(str(self.check.pair.keras)), None, f"{self.check.pair.name}: {self.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember every pair that a test asked for; give the level to JUnit."""
    check = getattr(item, "check", None)
    check = check or (getattr(item, "callspec", None) and item.callspec.params.get("check"))  # type: ignore[attr-defined]
    if isinstance(check, Check) and call.when == "call":
        # Of the item, before the report copies it: JUnit reads the report of the teardown.
        item.user_properties.append(("parity_level", check.level))
        item.config.stash.setdefault(PAIRS, {})[check.pair] = None
    return (yield)


PAIRS: pytest.StashKey[dict[Pair, None]] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    pairs = _checked(config)
    if not pairs:
        return
    terminalreporter.section("parity")
    for name, pair in pairs.items():
        report = pair.report
        origin = report.origins[0] if report.origins else None
        at = f" at {origin.names}" if origin else ""
        first = report.first_failure
        level = f" ({first.level}{at})" if first else ""
        terminalreporter.line(f"{name}: {report.verdict}{level}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.getoption("--parity-report")
    if not folder:
        return
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for shown, pair in _checked(session.config).items():
        name = re.sub(r"[^\w.-]", "_", shown)
        text = json.dumps(pair.report.to_dict(), indent=1, allow_nan=False)
        (out / f"{name}.json").write_text(text + "\n")
        (out / f"{name}.txt").write_text(pair.report.text())


def _checked(config: pytest.Config) -> dict[str, Pair]:
    """The pairs whose check came to an end, each by a name of its own; a builder that raised left
    no report."""
    named: dict[str, Pair] = {}
    for pair in config.stash.get(PAIRS, {}):
        if "report" in vars(pair):
            name, again = pair.name, 1
            while name in named:
                again += 1
                name = f"{pair.name}-{again}"
            named[name] = pair
    return named


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """Check a pair up to the level of the test's mark; raises with the report if it fails.

    `parity(keras, torch, inputs)` takes models, `parity(build_keras, build_torch)` builders.
    """
    from parity.check import pairs

    mark = request.node.get_closest_marker("parity")
    level = mark.kwargs.get("level", "gradient") if mark else "gradient"

    def checked(keras: Any, torch: Any, inputs: Any = None, **options: Any) -> CheckReport:
        return pairs.asserted(keras, torch, inputs, **{"level": level, **options})

    return checked


def _levels(last: str) -> Sequence[str]:
    if last not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {last!r}")
    climbed = LEVELS[: LEVELS.index(last) + 1]
    return (*climbed, "randomness") if last in ("loss", "gradient") else climbed  # comes with them


def _name(builder: Builder) -> str:
    if not isinstance(builder, str):
        return getattr(builder, "__name__", type(builder).__name__)
    file, _, function = builder.rpartition(":")
    return function if file else Path(builder).stem
