"""One arm's network under training, in PyTorch. Its twin is `keras_impl/training.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity import weights
from parity.experiment import Experiment
from shared_data.errors import Unavailable
from torch_impl.builders import build


class Trainer:
    """The network, its loss and its optimizer: what an arm needs of a framework, and no more.

    Raises `InputError` where the experiment's device is not to be had.
    """

    def __init__(self, experiment: Experiment, classes: int) -> None:
        _require(experiment)
        _deterministic(experiment)
        torch.manual_seed(experiment.seed)
        self.experiment = experiment
        self.specs = weights.specs(experiment, classes)
        self.classes = classes
        self.device = torch.device(experiment.device)
        self.model = build(experiment, classes).to(self.device)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = make_optimizer(self.model, experiment)

    def train_batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """One step. Images NHWC, labels int (batch,). Loss and accuracy are from before it."""
        targets = torch.from_numpy(labels).to(self.device)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(self._images(images))
        loss = self.loss(logits, targets)
        loss.backward()
        self.optimizer.step()
        accuracy = (logits.detach().argmax(1) == targets).double().mean()
        return loss.item(), accuracy.item()

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) of images NHWC, in evaluation mode."""
        self.model.eval()
        with torch.inference_mode():
            logits: np.ndarray = self.model(self._images(images)).cpu().numpy()
        return logits

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the parameters under canonical names, in canonical layout."""
        return self.canonical(list(self.model.parameters()))

    def moments(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Adam's two moments of every parameter, likewise. Only after the first step."""
        states = [self.optimizer.state.get(p, {}) for p in self.model.parameters()]
        first, second = ([state.get(key) for state in states] for key in ("exp_avg", "exp_avg_sq"))
        return self.canonical(first), self.canonical(second)

    def canonical(self, tensors: Sequence[Tensor | None]) -> dict[str, np.ndarray]:
        """Copies of one tensor per parameter, under canonical names, in canonical layout.

        None, such as the gradient of a parameter that none reaches, is left out.
        """
        return {
            spec.name: weights.from_torch(spec, tensor.detach().cpu().numpy()).copy()
            for spec, tensor in zip(self.specs, tensors, strict=True)
            if tensor is not None
        }

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Set every parameter. Raises `ValueError` unless `values` are exactly the canonical."""
        weights.check(self.specs, values)
        with torch.no_grad():
            for spec, parameter in zip(self.specs, self.model.parameters(), strict=True):
                parameter.copy_(torch.from_numpy(weights.to_torch(spec, values[spec.name])))

    def restart(self, values: Mapping[str, np.ndarray]) -> None:
        """As on the first day: these weights, and an optimizer that has not stepped."""
        self.load(values)
        self.optimizer = make_optimizer(self.model, self.experiment)

    def resume(
        self,
        values: Mapping[str, np.ndarray],
        first: Mapping[str, np.ndarray],
        second: Mapping[str, np.ndarray],
        steps: int,
    ) -> None:
        """As after `steps` steps: weights and Adam's moments under canonical names."""
        self.restart(values)
        for spec, parameter in zip(self.specs, self.model.parameters(), strict=True):
            state: dict[str, Tensor] = {"step": torch.tensor(float(steps))}
            for key, moments in (("exp_avg", first), ("exp_avg_sq", second)):
                moment = torch.from_numpy(weights.to_torch(spec, moments[spec.name]))
                state[key] = torch.zeros_like(parameter).copy_(moment)  # in the same memory layout
            self.optimizer.state[parameter] = state
        if isinstance(self.optimizer, KerasAdam):
            self.optimizer.steps = steps

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def semantics(self) -> dict[str, Any]:
        """Optimizer and loss as they are built, in the terms that both sides share."""
        optimizer, (group,) = self.optimizer, self.optimizer.param_groups
        epsilon, position = group["eps"], "beside the corrected root"
        if isinstance(optimizer, KerasAdam):
            epsilon, position = optimizer.epsilon, "beside the uncorrected root"
        return {
            "optimizer": {
                "kind": "adam" if isinstance(optimizer, torch.optim.Adam) else "other",
                "learning_rate": float(f"{group['lr']:.7g}"),
                "beta_1": group["betas"][0],
                "beta_2": group["betas"][1],
                "epsilon": epsilon,
                "epsilon_position": position,
                "weight_decay": float(group["weight_decay"]),
                "amsgrad": group["amsgrad"],
            },
            "loss": {
                "kind": "cross-entropy",
                "on": "logits",
                "reduction": self.loss.reduction,
                "label_smoothing": float(self.loss.label_smoothing),
            },
        }

    def _images(self, images: np.ndarray) -> Tensor:
        """NHWC bytes seen as NCHW: no copy, and channels last in memory is the faster layout."""
        return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)


class KerasAdam(torch.optim.Adam):
    """Adam with Keras' epsilon, which stands beside the uncorrected root of the second moment.

    Keras:    w -= lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
    PyTorch:  w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps')
    They are equal for eps' = eps / sqrt(1 - b2^t), set anew before each step t.
    """

    def __init__(self, parameters: Any, lr: float, epsilon: float = 1e-7) -> None:
        super().__init__(parameters, lr=lr, betas=(0.9, 0.999), eps=epsilon)
        self.epsilon = epsilon
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["eps"] = self.epsilon / math.sqrt(1 - group["betas"][1] ** self.steps)
        return super().step(closure)


def make_optimizer(model: nn.Module, experiment: Experiment) -> torch.optim.Optimizer:
    """PyTorch's Adam, or, aligned, one that takes Keras' steps."""
    if experiment.optimizer == "native":
        return torch.optim.Adam(model.parameters(), lr=experiment.learning_rate)
    return KerasAdam(model.parameters(), lr=experiment.learning_rate)


def environment() -> dict[str, Any]:
    """Versions and settings that can change this side's numbers."""
    return {
        "torch": torch.__version__,
        "backend": "torch",
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _deterministic(experiment: Experiment) -> None:
    torch.use_deterministic_algorithms(True)
    # Otherwise every new tensor is filled with NaN before it is written: a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = experiment.tf32 == "on"
    torch.backends.cudnn.allow_tf32 = experiment.tf32 == "on"
    if experiment.threads:
        torch.set_num_threads(experiment.threads)


def _require(experiment: Experiment) -> None:
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            "--device cuda: this build of PyTorch finds no GPU. Install a CUDA build, or use "
            "--device cpu."
        )
