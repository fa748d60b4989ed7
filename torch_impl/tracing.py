"""Every number of a run of a model. Its twin is `keras_impl/tracing.py`.

`parity.check.trace` lists what a trace holds. Each run starts from a copy of the model as it was
given, so that runs do not touch one another, nor the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from parity.check.graph import INPUT, Graph
from parity.check.randomness import Draws
from parity.check.targets import chosen
from parity.check.trace import STEPS, Request, Trace, draw_inputs, nudged
from shared_data.errors import InputError
from torch_impl import layers, optimizers
from torch_impl.changing import changed
from torch_impl.copying import Fresh
from torch_impl.forcing import Forced
from torch_impl.graph import as_tensors, attempt
from torch_impl.losses import Loss
from torch_impl.randomness import Played, replayed
from torch_impl.singles import Singles
from torch_impl.training import environment
from torch_impl.watching import See, Watch

LEVELS = ("forward", "loss", "update", "trajectory")
Arrays = dict[str, np.ndarray]


def trace(
    model: nn.Module,
    graph: Graph,
    request: Request,
    reference: Trace | None = None,
    made: Trace | None = None,
) -> Trace:
    """Run the model as asked: as it is and nudged where levels are, forced where a reference is.

    The numbers go into `made`, if it is given. `graph` is what `describe` says of it; only its
    nodes and parameters are kept. Raises `InputError` where the model does not run on its first
    batch or what is asked does not fit it.
    """
    _check(request)
    with _settings(request), Fresh(model) as models:
        side = _Side(models, graph, request)
        given = inputs_of(request)
        made = made or Trace("torch", request.precision)
        made.environment = environment()
        for part in side.run(given):
            made.keep(part)
        if request.nudge:
            for part in side.run(_nudged(side.cast(given)), nudge=True):
                made.keep_floor(part)
        for name, path in request.series:
            batch = _arrays(path, INPUT)
            for part in side.further(name, batch):
                made.keep(part)
            if request.series_nudge:
                for part in side.further(name, _nudged(side.cast(batch)), nudge=True):
                    made.keep_floor(part)
        if reference is not None and request.pairs:
            forced = Forced(reference, request.pairs, getattr(torch, request.precision))
            for part in side.forced(given, forced):
                made.keep(part)
        made.notes += side.notes
        if request.repeats:
            for part in side.repeated(given):
                made.keep(part)
        made.refused |= side.refused
        made.drawn |= side.drawn
    return made


def inputs_of(request: Request) -> Arrays:
    """The inputs of a request, from its file or drawn. Raises `InputError` where it is unfit."""
    if request.inputs is None:
        return draw_inputs(request.input_shapes, request.batch, request.seed)
    return _arrays(request.inputs, INPUT)


class _Side:
    """A model and what it is run on."""

    def __init__(self, models: Fresh, graph: Graph, request: Request) -> None:
        self.models, self.graph, self.request = models, graph, request
        self.dtype: torch.dtype = getattr(torch, request.precision)
        self.singles = Singles(models.model if request.precision == "float64" else None)
        self.notes: list[str] = self.singles.notes
        self.refused: dict[str, str] = {}
        self.drawn: dict[str, dict[str, list[str]]] = {}
        self.played: dict[str, Played] = {}
        self.nodes = {node.name for node in graph.nodes} if request.inside else set()
        self.trained = [each.name for each in graph.parameters if each.trained]
        labels = _arrays(request.labels, "output:") if request.labels else {}
        self.loss = Loss(graph, request, labels)
        self.trains = bool(request.pairs or set(request.levels) - {"forward"})

    def cast(self, inputs: Arrays) -> Arrays:
        floating = self.request.precision
        return {
            name: value.astype(floating) if value.dtype.kind == "f" else value
            for name, value in inputs.items()
        }

    @contextmanager
    def _draws(self, name: str, model: nn.Module, keep: bool = True) -> Iterator[None]:
        """What Keras drew in the run of that name is drawn inside."""
        folder = Path(self.request.draws or "") / name
        known = bool(self.request.draws) and folder.is_dir()
        draws = Draws.read(folder) if known else Draws()
        with replayed(
            draws,
            mirrored=self.request.mirrored,
            earlier=self.played.get(name),
            model=model,
            seed=self.request.seed,
        ) as played:
            yield
        self.played[name] = played
        if keep and (played.unmatched or played.uncaught or draws.events or draws.uncaught):
            self.drawn[name] = {
                "unmatched": played.unmatched,
                "unused": played.unused,
                "mismatches": played.mismatches,
                "uncaught": played.uncaught,
            }

    def repeated(self, inputs: Arrays) -> Iterator[Arrays]:
        """Outputs in training mode, drawn anew each time."""
        found: list[list[np.ndarray]] = []
        model = self._fresh()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for at in range(self.request.repeats):
            model.load_state_dict(state)
            torch.manual_seed(self.request.seed + at + 1)
            with torch.no_grad():
                outputs = attempt(lambda: self._taken(model, inputs), [])
            found.append([_array(each) for each in self._chosen(outputs)])
        for at, each in enumerate(zip(*found, strict=True)):
            yield {f"repeated/{at}": np.stack(each)}

    def _taken(self, model: nn.Module, inputs: Arrays) -> list[Tensor]:
        given = as_tensors(inputs, self.dtype)
        watch = Watch(model, precision=self.dtype, singles=self.singles)
        return watch.run(given, self.request.called, self.request.packed)

    def run(self, inputs: Arrays, nudge: bool = False) -> Iterator[Arrays]:
        """Everything but the forced run, by the names of a trace, part by part."""
        if not self.request.levels:
            return
        model = self._fresh(nudge)
        if "forward" in self.request.levels:
            recorder = _Recorder(self.nodes)
            given = as_tensors(inputs, self.dtype)
            with self._draws("forward", model, not nudge):
                outputs = self._watched(model.eval(), given, recorder)
                twice = not nudge and self.request.nudge
                again = self._plain(model, inputs) if twice else None
                if again is not None and not all(map(torch.equal, outputs, again)):
                    self._note(self._another_time(model, inputs, recorder))
            yield self._ordered("forward", recorder.values)
            yield self._outputs("forward", outputs)
            if again is not None:
                yield self._outputs("again", again)
        if self.trains:
            model = self._training(self._fresh(nudge))
            with self._draws("training", model, not nudge):
                yield from self._train(model, inputs)

    def _another_time(self, model: nn.Module, inputs: Arrays, first: _Recorder) -> list[str]:
        """Which call begins to give something else, without gradients and not the first time."""
        again = _Recorder(self.nodes)
        with torch.no_grad():
            self._watched(model, as_tensors(inputs, self.dtype), again)
        for node in self.graph.nodes:
            ours, theirs = first.values.get(node.name), again.values.get(node.name)
            if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
                return [f"{node.name} gives something else the second time, without gradients"]
        return []

    def further(self, name: str, inputs: Arrays, nudge: bool = False) -> Iterator[Arrays]:
        """What decides, of a further batch."""
        run, keep = f"series/{name}", not nudge
        model = self._fresh(nudge).eval()
        try:
            with self._draws(f"{run}/forward", model, keep):
                outputs = self._plain(model, inputs)
        except InputError as error:
            self.refused[f"series/{name}/forward"] = str(error)
            return
        yield _under(f"series/{name}", self._outputs("forward", outputs))
        if not self.trains:
            return
        model, given = self._training(self._fresh(nudge)), as_tensors(inputs, self.dtype)
        try:
            with self._draws(f"{run}/training", model, keep):
                outputs = self._watched(model, given)
            loss = self.loss(self._chosen(outputs), squared=True)
            if loss.requires_grad:
                attempt(loss.backward, given)
        except InputError as error:
            self.refused[f"series/{name}/training"] = str(error)
            return
        yield _under(f"series/{name}", self._outputs("training", outputs))
        yield {f"series/{name}/loss": loss.detach().numpy().copy()}
        yield _under(f"series/{name}/gradient", self._gradients(model) | _of_inputs(given))

    def forced(self, inputs: Arrays, forced: Forced) -> Iterator[Arrays]:
        model = self._fresh()
        for at, change in enumerate(self.request.changes):
            if not (self.models.copies and changed(model, *change)):
                self.refused[f"change/{at}"] = "it is no attribute of a layer"
        self._training(model)
        given = as_tensors(inputs, self.dtype)
        with self._draws("training", model, keep=False):
            outputs = self._watched(model, given, forced, replaces=True)
        loss = self.loss(self._chosen(outputs))
        attempt(lambda: forced.backward(loss), outputs)
        self._note(forced.notes)
        yield self._ordered("forced/training", forced.own)
        yield self._ordered("forced/upstream", forced.handed_back())
        yield _under("forced/gradient", self._gradients(model))
        kept = {each.name for each in self.graph.parameters if not each.trained}
        weights = self._weights(model).items()
        yield _under("forced/update", {name: each for name, each in weights if name in kept})

    def _train(self, model: nn.Module, inputs: Arrays) -> Iterator[Arrays]:
        """The training run, a step, and the steps after it."""
        levels = self.request.levels
        given = as_tensors(inputs, self.dtype)
        recorder = _Recorder(self.nodes, gradients=True)
        outputs = self._watched(model, given, recorder)
        if "loss" in levels:
            yield self._ordered("training", recorder.values)
            yield self._outputs("training", outputs)
        loss = self.loss(self._chosen(outputs))
        if loss.requires_grad:
            attempt(loss.backward, given)
        if "loss" in levels:
            yield {"loss": loss.detach().numpy().copy()}
            yield self._ordered("upstream", recorder.upstream())
            yield _under("gradient", self._gradients(model))
            yield _under("gradient", _of_inputs(given))
        losses = [loss.item()]
        state = model.state_dict(keep_vars=True)
        optimizer = optimizers.make(
            self.request.optimizer,
            # PyTorch's optimizers refuse to have nothing to train.
            [state[name] for name in self.trained] or [torch.zeros(())],
            self.request.optimizer_settings,
        )
        if set(levels) & {"update", "trajectory"}:
            optimizer.step()
        if "update" in levels:
            yield _under("update", self._weights(model))
        if "trajectory" in levels:
            for _ in range(STEPS - 1):
                model.zero_grad(set_to_none=True)
                again = self._watched(model, as_tensors(inputs, self.dtype))
                loss = self.loss(self._chosen(again))
                if loss.requires_grad:
                    loss.backward()
                losses.append(loss.item())
                optimizer.step()
            yield {"trajectory/loss": np.array(losses, self.request.precision)}
            yield _under("trajectory", self._weights(model))

    def _chosen(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return chosen(outputs, self.request.outputs)

    def _outputs(self, mode: str, outputs: Sequence[Tensor]) -> Arrays:
        chosen = enumerate(self._chosen(outputs))
        return {f"outputs/{mode}/{at}": _array(each) for at, each in chosen}

    def _plain(self, model: nn.Module, inputs: Arrays) -> list[Tensor]:
        """As a user runs it in inference: without gradients, and without being watched call by
        call."""
        given = as_tensors(inputs, self.dtype)
        with torch.no_grad():
            return self._watched(model, given)

    def _watched(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor],
        see: See = lambda name, output: output,
        replaces: bool = False,
    ) -> list[Tensor]:
        torch.manual_seed(self.request.seed)  # whatever draws, draws the same in every run
        watch = Watch(
            model,
            see,
            replaces=replaces,
            quiet=model.training and not self.request.noise,
            precision=self.dtype,
            graph=self.graph,
            singles=self.singles,
        )
        outputs: list[Tensor] = attempt(
            lambda: watch.run(inputs, self.request.called, self.request.packed), inputs
        )
        return outputs

    def _fresh(self, nudge: bool = False) -> nn.Module:
        """A copy in the precision asked for, its weights nudged or not."""
        model = self.singles.watch(self.models.take().to(self.dtype), nudge)
        if nudge:
            with torch.no_grad():
                for name, each in (*model.named_parameters(), *model.named_buffers()):
                    if each.is_floating_point():
                        moved = self.singles.nudged(name, _view(each), nudged(_view(each)))
                        each.copy_(torch.from_numpy(moved))
        return model

    def _training(self, model: nn.Module) -> nn.Module:
        """In training mode; but for what drops, where no noise is asked for."""
        for module in model.train().modules() if not self.request.noise else ():
            if layers.drops(module):
                module.eval()
            elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
                module.dropout = 0.0
        return model.train() if self.request.noise else model

    def _gradients(self, model: nn.Module) -> Arrays:
        """By every trained parameter, its own memory; zero where none reaches it."""
        state = model.state_dict(keep_vars=True)
        return {name: _view(_gradient(state[name])) for name in self.trained}

    def _weights(self, model: nn.Module) -> Arrays:
        state = model.state_dict(keep_vars=True)
        return {each.name: _array(state[each.name]) for each in self.graph.parameters}

    def _ordered(self, prefix: str, values: Mapping[str, np.ndarray]) -> Arrays:
        names = [node.name for node in self.graph.nodes if node.name in values]
        return {f"{prefix}/{name}": values[name] for name in names}

    def _note(self, notes: Sequence[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]


class _Recorder:
    """Keeps a copy of every node's output, and the gradient that comes back to it."""

    def __init__(self, nodes: set[str], gradients: bool = False) -> None:
        self.nodes, self.gradients = nodes, gradients
        self.values: Arrays = {}
        self._back: Arrays = {}

    def __call__(self, name: str, output: Tensor) -> Tensor:
        if name in self.nodes:
            self.values[name] = _array(output)  # now: a call in place may write on it later
            if self.gradients and output.requires_grad:
                self._back[name] = np.zeros_like(self.values[name])  # where none comes back
                output.register_hook(partial(self._keep, name))
        return output

    def _keep(self, name: str, gradient: Tensor) -> None:
        self._back[name] = _array(gradient)

    def upstream(self) -> Arrays:
        return self._back


def _nudged(inputs: Arrays) -> Arrays:
    return {name: nudged(value) for name, value in inputs.items()}


def _of_inputs(given: Sequence[Tensor]) -> Arrays:
    """The gradients by what the model was given."""
    floating = [(at, each) for at, each in enumerate(given) if each.is_floating_point()]
    return {f"{INPUT}{at}": _array(_gradient(each)) for at, each in floating}


def _under(prefix: str, values: Mapping[str, np.ndarray]) -> Arrays:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad


def _array(value: Tensor) -> np.ndarray:
    """A copy."""
    return _view(value).copy()


def _view(value: Tensor) -> np.ndarray:
    """NumPy has no bfloat16: it comes as float32, which holds it exactly."""
    value = value.detach()
    array: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return array


def _arrays(path: str, prefix: str) -> Arrays:
    """`prefix` and 0, 1, … from an `.npz`."""
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read the arrays in {path}: {error}") from None
    expected = [f"{prefix}{at}" for at in range(len(found))]
    if sorted(found) != sorted(expected):
        raise InputError(f"{path} holds {', '.join(found)}: expected {', '.join(expected)}.")
    return {name: found[name] for name in expected}


def _check(request: Request) -> None:
    if request.precision not in ("float64", "float32"):
        raise InputError(f"no precision {request.precision!r}: expected float64 or float32.")
    unknown = [level for level in request.levels if level not in LEVELS]
    if unknown:
        raise InputError(f"no level {unknown[0]!r}: expected some of {', '.join(LEVELS)}.")


@contextmanager
def _settings(request: Request) -> Iterator[None]:
    """Deterministic, in the precision asked for and with its threads; as it was before, after."""
    restore: list[Callable[[], None]] = [
        partial(torch.set_default_dtype, torch.get_default_dtype()),
        partial(torch.set_num_threads, torch.get_num_threads()),
        partial(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode()),
        partial(random.setstate, random.getstate()),
    ]
    # The same as use_deterministic_algorithms(True, warn_only=True), which also loads triton: that
    # takes seconds, and beside TensorFlow ends the process.
    torch.set_deterministic_debug_mode("warn")
    # What a forward makes anew, such as a first state of zeros, is of the default type.
    torch.set_default_dtype(getattr(torch, request.precision))
    if request.threads:
        torch.set_num_threads(request.threads)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        for each in restore:
            each()
