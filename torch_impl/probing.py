"""Look inside one batch, layer by layer, in PyTorch. Its twin is `keras_impl/probing.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.probe import INPUT, Layer
from shared_data.errors import InputError
from torch_impl.builders import Block
from torch_impl.training import Trainer

Tensors = dict[str, np.ndarray]
FLATTEN = "flatten"  # its output is canonical in H, W, C order, PyTorch's own is C, H, W


class Prober:
    """Activations and gradients of a trainer's network, under canonical names and in NHWC."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.steps = canonical_layers(trainer.model)

    def free(self, images: np.ndarray, labels: np.ndarray) -> dict[str, Tensors]:
        """The network as it is. Images NHWC, labels int64 (batch,).

        Returns `activation`, `loss`, `upstream` and `gradient` as `parity.probe` names them.
        """
        model = self.trainer.model
        model.train()
        model.zero_grad(set_to_none=True)
        x = source = self._tensor(INPUT, images).requires_grad_()
        outputs: dict[str, Tensor] = {}
        drawn = torch.get_rng_state()  # a layer that draws must draw the same in both passes
        for name, layer in self.steps.items():
            outputs[name] = x = layer(x)
            x.retain_grad()
        torch.set_rng_state(drawn)
        if not torch.equal(x, model(source)) and not x.isnan().any():
            raise InputError(
                "the layers one by one do not give what the network gives: canonical_layers in "
                "torch_impl/probing.py must list them in the order of the forward pass"
            )
        loss = self.trainer.loss(x, torch.from_numpy(labels).to(x.device))
        loss.backward()
        gradients = self.trainer.canonical([p.grad for p in model.parameters()])
        return {
            "activation": {name: self._array(name, value) for name, value in outputs.items()},
            "loss": {"loss": loss.detach().cpu().numpy()},
            "upstream": {name: self._array(name, value.grad) for name, value in outputs.items()},
            "gradient": {**gradients, INPUT: self._array(INPUT, source.grad)},
        }

    def isolated(
        self, inputs: Mapping[str, np.ndarray], upstream: Mapping[str, np.ndarray]
    ) -> dict[str, Tensors]:
        """Each layer alone. `inputs` and `upstream` per layer: what goes in, and the gradient of
        the loss by what comes out. Returns `activation`, `upstream` (by the input), `gradient`, as
        far as shapes fit."""
        model = self.trainer.model
        model.train()
        model.zero_grad(set_to_none=True)
        outputs, by_input, before = {}, {}, INPUT
        for name, layer in self.steps.items():
            if self._takes(layer, inputs.get(name)):
                source = self._tensor(before, inputs[name]).requires_grad_()
                output = layer(source)
                outputs[name] = self._array(name, output)
                if outputs[name].shape == upstream[name].shape:
                    output.backward(self._tensor(name, upstream[name]))
                    by_input[name] = self._array(before, source.grad)
            before = name
        gradients = self.trainer.canonical([p.grad for p in model.parameters()])
        return {"activation": outputs, "upstream": by_input, "gradient": gradients}

    def _takes(self, layer: nn.Module, given: np.ndarray | None) -> bool:
        """Whether the reference's input fits; the level structure tells why one does not."""
        if given is None:  # the reference has no such layer
            return False
        if isinstance(layer, nn.Conv2d):
            return given.shape[-1] == layer.in_channels
        if isinstance(layer, nn.Flatten):
            return given.shape[1:] == self._flattened()
        return not isinstance(layer, nn.Linear) or given.shape[-1] == layer.in_features

    def layers(self) -> tuple[Layer, ...]:
        """The layers in forward order, in the terms that both sides share."""
        described, before = [], INPUT
        side = self.trainer.experiment.image_size
        x = self._tensor(INPUT, np.zeros((1, side, side, 3)))
        with torch.no_grad():
            for name, layer in self.steps.items():
                x = layer(x)
                parameters = {
                    spec.name: spec.shape
                    for spec in self.trainer.specs
                    if spec.name.rpartition(".")[0] == name
                }
                kind, settings = _describe(layer, str(x.dtype).removeprefix("torch."))
                shape = self._array(name, x).shape[1:]
                described.append(Layer(name, kind, (before,), shape, parameters, settings))
                before = name
        return tuple(described)

    def _tensor(self, name: str, value: np.ndarray) -> Tensor:
        """What comes out of layer `name`, from canonical layout: NHWC to NCHW, flattened too."""
        dtype = getattr(torch, self.trainer.experiment.precision)
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(self.trainer.device, dtype)
        if name == FLATTEN:
            tensor = tensor.reshape(len(value), *self._flattened()).permute(0, 3, 1, 2).flatten(1)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def _array(self, name: str, value: Tensor | None) -> np.ndarray:
        """The inverse of `_tensor`."""
        if value is None:
            raise RuntimeError(f"no gradient reaches {name}")
        array = value.detach().cpu().numpy()
        if name == FLATTEN:
            height, width, channels = self._flattened()
            array = array.reshape(-1, channels, height, width)
        if array.ndim == 4:
            array = array.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(array.reshape(len(array), -1) if name == FLATTEN else array)

    def _flattened(self) -> tuple[int, int, int]:
        """The (H, W, C) map before the flatten."""
        (found,) = (spec.flattened for spec in self.trainer.specs if spec.flattened)
        return found


def canonical_layers(model: nn.Sequential) -> dict[str, nn.Module]:
    """The layers by canonical name, in the plain order: a block's ReLU before its pool."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_children():
        if isinstance(module, Block):
            layers |= {f"{name}.{part}": getattr(module, part) for part in ("conv", "relu", "pool")}
        else:
            layers[name.replace("_", ".")] = module
    return layers


def _describe(layer: nn.Module, dtype: str) -> tuple[str, dict[str, Any]]:
    """A layer's kind and settings, in the terms that both sides share."""
    match layer:
        case nn.Conv2d():
            return "conv", {
                "kernel_size": list(layer.kernel_size),
                "strides": list(layer.stride),
                "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
                "dilation": list(layer.dilation),
                "groups": layer.groups,
                "bias": layer.bias is not None,
                "activation": "linear",
                "dtype": dtype,
            }
        case nn.MaxPool2d() | nn.AvgPool2d():
            return "pool", {
                "pool": "max" if isinstance(layer, nn.MaxPool2d) else "average",
                "size": _pair(layer.kernel_size),
                "strides": _pair(layer.stride),
                "padding": _pair(layer.padding),
                "dtype": dtype,
            }
        case nn.Linear():
            bias = layer.bias is not None
            return "dense", {"bias": bias, "activation": "linear", "dtype": dtype}
        case nn.ReLU() | nn.LeakyReLU():
            slope = float(getattr(layer, "negative_slope", 0.0))
            return "relu", {"negative_slope": slope, "dtype": dtype}
        case nn.Flatten():
            return "flatten", {"order": "HWC", "dtype": dtype}  # once its C, H, W is put in order
    return type(layer).__name__.lower(), {"dtype": dtype}


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
