"""The live display: a summary and a line per arm on a terminal, plain lines elsewhere.

It goes to standard error only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shared_data.errors import printable

MOST_LINES = 12  # more arms than this do not fit a terminal beside what else stands there
Clock = Callable[[], float]


@dataclass
class _Line:
    """What is known of one arm, from its events."""

    epochs: int
    clock: Clock
    steps: int = 0  # per epoch; 0 = not known yet
    state: str = "waiting"
    trained: bool = False  # done once, perhaps before this run; a probe may follow
    epoch: int = 0
    step: int = 0
    loss: float | None = None
    started: float | None = None
    ended: float | None = None
    first: tuple[float, int] | None = None  # when the first step ended, and which it was
    latest: tuple[float, int] = field(default=(0.0, 0))

    @property
    def done(self) -> int:
        """Steps since the start of the training."""
        return max(0, self.epoch - 1) * self.steps + self.step

    @property
    def total(self) -> int:
        return self.epochs * self.steps

    @property
    def seconds_per_step(self) -> float | None:
        """Mean since the end of the first step, which also compiles; validation included."""
        if self.first is None or self.latest[1] <= self.first[1]:
            return None
        return (self.latest[0] - self.first[0]) / (self.latest[1] - self.first[1])

    @property
    def left(self) -> float | None:
        """Seconds of training still to go."""
        rate = self.seconds_per_step
        return None if rate is None else rate * max(0, self.total - self.done)

    @property
    def failed(self) -> bool:
        return self.state.startswith("failed")

    @property
    def active(self) -> bool:
        """Whether a worker is at it right now."""
        return self.state in ("training", "evaluating", "probing")

    @property
    def elapsed(self) -> float:
        if self.started is None:
            return 0.0
        return (self.clock() if self.ended is None else self.ended) - self.started

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self.state, self.started = "training", self.clock()
            self.steps = event.get("steps") or self.steps
        elif kind == "step":
            self.epoch, self.step, self.loss = event["epoch"], event["step"], event["loss"]
            self.latest = (self.clock(), self.done)
            self.first = self.first or self.latest
        elif kind == "epoch":
            self.epoch, self.step, self.loss = event["epoch"], self.steps, event["loss"]
        elif kind == "resume":
            self.epoch, self.step = event["epoch"], self.steps
        elif kind == "retry":
            self.state, self.first = "waiting", None  # its pace is measured anew
        elif kind in ("evaluate", "probe"):
            self.state, self.ended = {"evaluate": "evaluating", "probe": "probing"}[kind], None
        elif kind in ("done", "failed"):
            self.ended = self.clock()
            self.state = f"failed: {_first_line(event['error'])}" if event.get("error") else "done"
            self.trained = self.trained or not self.failed


class Progress:
    """Shows where each arm stands; a context manager, its methods may be called from any thread.

    Of several arms a summary says how many are done, running and waiting, and about how long all
    of them still take: on a terminal above the arms, elsewhere whenever the training of one ends.
    Of more than `MOST_LINES` arms a terminal shows the running and failed ones alone below it.

    Args:
        arms: ids, in the order of display.
        epochs: of each arm.
        steps_per_epoch: 0 where it is not known yet; an arm's `start` event may bring it.
        console: standard error by default. Where it is no terminal, plain lines are printed: the
            start, each epoch and the end of each arm.
        clock: seconds that never go backwards.
        jobs: how many arms run at a time, for the time left.
    """

    def __init__(
        self,
        arms: Sequence[str],
        epochs: int,
        steps_per_epoch: int = 0,
        console: Console | None = None,
        clock: Clock = time.monotonic,
        jobs: int = 1,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._lines = {arm: _Line(epochs, clock, steps_per_epoch) for arm in arms}
        self._name_width = max(map(len, arms), default=0)
        self._jobs = jobs
        self._prepared: tuple[int, int] | None = None
        self._lock = RLock()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._display, console=self._console, refresh_per_second=5
            )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def preparing(self, done: int, total: int) -> None:
        """`done` of `total` images are drawn or decoded; from 1 again for another data set."""
        with self._lock:
            again = self._prepared is None or done < self._prepared[0]
            self._prepared = (done, total)
            if self._live is None and again:
                self._say(f"preparing {total} images")

    def event(self, arm: str, event: Mapping[str, Any]) -> None:
        """Take in what a worker reported.

        `event["event"]` is `start` (perhaps with `steps` per epoch), `step` (`epoch` and `step`
        from 1, `loss`), `epoch` (`epoch` and the four metrics), `resume` (`epoch`), `evaluate`,
        `probe`, `retry` (`error`: how its worker was lost), `done` or `failed`; the last two with
        an `error` where the arm did not finish. Others are ignored.
        """
        with self._lock:
            line = self._lines[arm]
            trained = line.trained  # the end that follows is that of a probe
            line.take(event)
            if self._live is None:
                for text in _plain(line, event):
                    self._say(f"{arm:{self._name_width}}  {text}")
                ended = event["event"] in ("done", "failed") and (line.failed or not trained)
                if ended and len(self._lines) > 1:
                    self._say(self._summary())

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _summary(self) -> str:
        """`3 of 20 arms done, 2 running, 15 waiting · about 1:32:10 left`."""
        lines = self._lines.values()
        counts = {
            "failed": sum(line.failed for line in lines),
            "running": sum(line.active and not line.trained for line in lines),
            "probing": sum(line.active and line.trained for line in lines),
            "waiting": sum(line.state == "waiting" for line in lines),
        }
        done = sum(line.trained and not line.failed for line in lines)
        parts = [f"{done} of {len(lines)} arms done"]
        parts += [f"{count} {what}" for what, count in counts.items() if count]
        left = self._left()
        return ", ".join(parts) + ("" if left is None else f" · about {_clock_time(left)} left")

    def _left(self) -> float | None:
        """Seconds until all trainings end, at the mean pace of the arms that have shown one."""
        lines = self._lines.values()
        unfinished = [line for line in lines if not (line.trained or line.failed)]
        paces = [line.seconds_per_step for line in lines if line.seconds_per_step is not None]
        known = next((line.steps for line in lines if line.steps), 0)
        if not (unfinished and paces and known):
            return None
        # An arm that waits has not said its steps yet: they are as many as another's.
        steps = sum(max(0, line.epochs * (line.steps or known) - line.done) for line in unfinished)
        return steps * sum(paces) / len(paces) / min(self._jobs, len(unfinished))

    def _display(self) -> Group:
        with self._lock:
            many = len(self._lines) > 1
            summary = [Text(self._summary(), no_wrap=True, overflow="ellipsis")] if many else []
            return Group(*summary, self._table())

    def _table(self) -> Table:
        with self._lock:
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(no_wrap=True, min_width=11)
            table.add_column(ratio=1, no_wrap=True)
            for _ in range(3):
                table.add_column(no_wrap=True, justify="right")
            table.expand = True
            if self._prepared and all(line.started is None for line in self._lines.values()):
                done, total = self._prepared
                table.add_row("images", "preparing", _bar(done, total), f"{done}/{total}", "", "")
            few = len(self._lines) <= MOST_LINES
            for arm, line in self._lines.items():
                if few or line.active or line.failed:
                    table.add_row(arm, *_cells(line))
            return table


def _cells(line: _Line) -> Iterator[Text | ProgressBar]:
    """One arm's row after its name: state, bar, loss, speed, time left."""
    if line.state == "training" and line.epoch:
        steps = f"{line.step}/{line.steps}" if line.steps else str(line.step)
        yield Text(f"epoch {line.epoch}/{line.epochs} step {steps}")
    else:
        yield Text("failed" if line.failed else line.state, style="red" if line.failed else "")
    if line.failed:
        yield Text(
            line.state.removeprefix("failed: "), style="red", no_wrap=True, overflow="ellipsis"
        )
    else:
        yield _bar(line.done, line.total)
    yield Text("" if line.loss is None else f"loss {line.loss:.4f}")
    yield Text(_speed(line))
    if line.state in ("waiting", "training"):
        yield Text("" if line.left is None else f"{_clock_time(line.left)} left")
    else:
        yield Text("" if line.started is None else _clock_time(line.elapsed))


def _plain(line: _Line, event: Mapping[str, Any]) -> Iterator[str]:
    """The lines an event is worth where they cannot be overwritten; a step is worth none."""
    if event["event"] == "start":
        yield f"start: {line.epochs} epochs of {line.steps} steps"
    elif event["event"] == "epoch":
        metrics = (
            f"{name.replace('_', ' ')} {event[name]:.4f}"
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            if event.get(name) is not None
        )
        left = [f"{_clock_time(line.left)} left"] if line.left else []
        speed = [_speed(line)] if line.seconds_per_step else []
        yield ", ".join([f"epoch {line.epoch}/{line.epochs}: {', '.join(metrics)}", *speed, *left])
    elif event["event"] == "resume":
        yield f"going on after epoch {event['epoch']}"
    elif event["event"] == "probe":
        yield "probing"
    elif event["event"] == "retry":
        yield _first_line(event["error"])
    elif event["event"] in ("done", "failed"):
        yield line.state if line.started is None else f"{line.state} ({_clock_time(line.elapsed)})"


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done)


def _speed(line: _Line) -> str:
    rate = line.seconds_per_step
    return "" if rate is None else f"{rate:.3f} s/step"


def _clock_time(seconds: float) -> str:
    """
    >>> _clock_time(61.2), _clock_time(7200)
    ('1:02', '2:00:00')
    """
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _first_line(text: str) -> str:
    return printable((text.splitlines() or [""])[0])
