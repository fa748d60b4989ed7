"""Models in PyTorch to be compared with their twins of the same names in `keras_models.py`.

Builders take no arguments and give the whole model. A name with more behind a twin's name is that
twin with one mistake; which pairs there are, and what is known of each, stands in
`tests/zoo/__init__.py`. Modules are named as PyTorch's own models name theirs, unlike Keras'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

WORDS, STEPS = 30, 7  # of the models that read sequences
Norm = Callable[[int], nn.Module]


class Biased(_BatchNorm):
    """Batch normalisation as Keras does it: the moving variance takes the batch's own variance.

    PyTorch's takes n / (n - 1) of it. `eps` and `momentum` are Keras' epsilon and 1 - momentum.
    """

    unbiased = False

    def __init__(self, features: int, eps: float = 1e-3, momentum: float = 0.01) -> None:
        super().__init__(features, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x.detach(), axes, correction=0)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)
        return functional.batch_norm(
            x, None, None, self.weight, self.bias, training=True, eps=self.eps
        )


class BatchNorm(Biased, nn.BatchNorm2d):
    """Of a map."""


class BatchNorm1d(Biased, nn.BatchNorm1d):
    """Of a vector."""


def stirred(model: nn.Module) -> nn.Module:
    """The model with noise in all that starts as zeros or ones."""
    generator = torch.Generator().manual_seed(1)
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in named.items():
        if not tensor.is_floating_point() or (tensor.dim() == 1 and not tensor.requires_grad):
            continue  # counters; moving statistics; biases that are held at zero
        if tensor.dim() == 1:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data += 0.2 * noise.to(tensor.dtype)
        elif name == "vectors":
            tensor.data.normal_(0, 0.2, generator=generator)
    return model


# Published models, as torchvision has them -------------------------------------------------------


def vgg16() -> nn.Module:
    return torchvision.models.vgg16(weights=None)


def vgg16_without_dropout() -> nn.Module:
    return torchvision.models.vgg16(weights=None, dropout=0.0)


def vgg19() -> nn.Module:
    return torchvision.models.vgg19(weights=None)


def vgg19_without_dropout() -> nn.Module:
    return torchvision.models.vgg19(weights=None, dropout=0.0)


def resnet50() -> nn.Module:
    return torchvision.models.resnet50(weights=None)


def densenet121() -> nn.Module:
    return torchvision.models.densenet121(weights=None)


def mobilenet_v2() -> nn.Module:
    return torchvision.models.mobilenet_v2(weights=None)


def convnext_tiny() -> nn.Module:
    return torchvision.models.convnext_tiny(weights=None)


# The same, put right -----------------------------------------------------------------------------


def _with_keras_norm(model: nn.Module, eps: float, momentum: float) -> nn.Module:
    """Every batch normalisation of the model replaced by Keras'."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.BatchNorm2d:
            parent, _, name = path.rpartition(".")
            norm = BatchNorm(module.num_features, eps, momentum)
            setattr(model.get_submodule(parent), name, norm)
    return model


def resnet50_aligned() -> nn.Module:
    """Strides in the first convolution of a block, biases, and Keras' batch normalisation."""
    model = torchvision.models.resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return _with_keras_norm(model, 1.001e-5, 0.01)


def densenet121_aligned() -> nn.Module:
    return _with_keras_norm(torchvision.models.densenet121(weights=None), 1.001e-5, 0.01)


def mobilenet_v2_aligned() -> nn.Module:
    model = torchvision.models.mobilenet_v2(weights=None, dropout=0.0)
    return _with_keras_norm(model, 1e-3, 0.001)


def convnext_tiny_aligned() -> nn.Module:
    return torchvision.models.convnext_tiny(weights=None, stochastic_depth_prob=0.0)


# Small models, each the same function as its twin ------------------------------------------------


class VGG(nn.Module):
    """Built as torchvision's: the pool before the classifier fits any map to 3x3."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for filters in (6, 8):
            for number in (1, 2):
                own = padding if (filters, number) == (8, 1) else 1
                modules += [nn.Conv2d(channels, filters, 3, padding=own), nn.ReLU(inplace=True)]
                channels = filters
            modules.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*modules)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(8 * 3 * 3, 16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def vgg_small() -> nn.Module:
    return stirred(VGG())


def vgg_small_padding() -> nn.Module:
    """One convolution without padding, which the pool before the classifier hides."""
    return stirred(VGG(padding=0))


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(
        self, inputs: int, filters: int, stride: int, norm: Norm, second: Norm, late: bool
    ) -> None:
        super().__init__()
        first_stride, last_stride = (1, stride) if late else (stride, 1)
        self.conv1 = nn.Conv2d(inputs, filters, 3, first_stride, padding=1, bias=False)
        self.bn1 = norm(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, last_stride, padding=1, bias=False)
        self.bn2 = second(filters)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, filters, 1, stride, bias=False), norm(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """`second` is the second batch normalisation of stage 1, where it is another than `norm`;
    `late`: stage 2 has its stride in the second convolution."""

    def __init__(self, norm: Norm, second: Norm | None = None, late: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = norm(6)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(Residual(6, 6, 1, norm, second or norm, False))
        self.layer2 = nn.Sequential(Residual(6, 10, 2, norm, norm, late))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(x, 1))


def resnet_small() -> nn.Module:
    return stirred(ResNet(BatchNorm))


def resnet_small_epsilon() -> nn.Module:
    """One batch normalisation with PyTorch's epsilon."""
    return stirred(ResNet(BatchNorm, second=partial(BatchNorm, eps=1e-5)))


def resnet_small_momentum() -> nn.Module:
    """One batch normalisation with Keras' number for the momentum: 0.99 for 0.01."""
    return stirred(ResNet(BatchNorm, second=partial(BatchNorm, momentum=0.99)))


def resnet_small_plain_bn() -> nn.Module:
    """PyTorch's own batch normalisation with Keras' settings: the moving variance stays apart."""
    return stirred(ResNet(partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)))


def resnet_small_stride() -> nn.Module:
    """The stride in the second convolution of a block, as in ResNet v1.5."""
    return stirred(ResNet(BatchNorm, late=True))


class DenseUnit(nn.Module):
    """What it was given and four maps more; `first`: the new ones stand in front."""

    def __init__(self, inputs: int, first: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = BatchNorm(inputs), nn.Conv2d(inputs, 8, 1, bias=False)
        self.norm2, self.conv2 = BatchNorm(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(functional.relu(self.norm1(x)))
        new = self.conv2(functional.relu(self.norm2(new)))
        return torch.cat([new, x] if self.first else [x, new], 1)


class DenseNet(nn.Module):
    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(DenseUnit(6, False), DenseUnit(10, first))
        self.norm, self.conv = BatchNorm(14), nn.Conv2d(14, 7, 1, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.block2 = nn.Sequential(DenseUnit(7, False), DenseUnit(11, False))
        self.norm5 = BatchNorm(15)
        self.classifier = nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(self.conv0(x))
        x = self.pool(self.conv(functional.relu(self.norm(x))))
        x = functional.relu(self.norm5(self.block2(x)))
        x = functional.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


def densenet_small() -> nn.Module:
    return stirred(DenseNet())


def densenet_small_order() -> nn.Module:
    """In one place the new maps before the old ones."""
    return stirred(DenseNet(first=True))


Module = Callable[[], nn.Module]


def _unit(
    inputs: int,
    filters: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    symmetric: bool = False,
    activation: Module = nn.ReLU6,
) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU6; zeros where Keras' "same" has them."""
    padding = kernel // 2 if stride == 1 or symmetric else 0
    modules: list[nn.Module] = [] if padding or kernel == 1 else [nn.ZeroPad2d((0, 1, 0, 1))]
    conv = nn.Conv2d(inputs, filters, kernel, stride, padding, groups=groups, bias=False)
    return [*modules, conv, BatchNorm(filters, 1e-3, 0.001), activation()]


class Inverted(nn.Module):
    def __init__(
        self, inputs: int, filters: int, stride: int, symmetric: bool, activation: Module
    ) -> None:
        super().__init__()
        self.shortcut = stride == 1
        self.conv = nn.Sequential(
            *_unit(inputs, 12, 1, activation=activation),
            *_unit(12, 12, 3, stride, 12, symmetric),
            nn.Conv2d(12, filters, 1, bias=False),
            BatchNorm(filters, 1e-3, 0.001),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNet(nn.Module):
    """`symmetric` and `activation` are those of the second block alone."""

    def __init__(self, symmetric: bool = False, activation: Module = nn.ReLU6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(*_unit(3, 6, 3, 2)),
            Inverted(6, 6, 1, False, nn.ReLU6),
            Inverted(6, 8, 2, symmetric, activation),
        )
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_small() -> nn.Module:
    return stirred(MobileNet())


def mobilenet_small_padding() -> nn.Module:
    """A convolution of stride 2 padded on both sides, where "same" pads one."""
    return stirred(MobileNet(symmetric=True))


def mobilenet_small_relu() -> nn.Module:
    """A ReLU for a ReLU6: the same numbers as long as none is above 6."""
    return stirred(MobileNet(activation=nn.ReLU))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, approximate: str, eps: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU(approximate)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        new = self.dwconv(x).permute(0, 2, 3, 1)
        new = self.pwconv2(self.act(self.pwconv1(self.norm(new))))
        return x + (self.gamma * new).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """`approximate` and `eps` are those of the second stage alone."""

    def __init__(self, approximate: str = "none", eps: float = 1e-6) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6, eps=1e-6)
        self.stage1 = ConvNeXtBlock(6, "none", 1e-6)
        self.down_norm, self.down = nn.LayerNorm(6, eps=1e-6), nn.Conv2d(6, 8, 2, 2)
        self.stage2 = ConvNeXtBlock(8, approximate, eps)
        self.head_norm, self.head = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.stage1(x)
        x = self.down(self.down_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = self.stage2(x)
        return self.head(self.head_norm(x.mean((2, 3))))


def convnext_small() -> nn.Module:
    return stirred(ConvNeXt())


def convnext_small_gelu() -> nn.Module:
    """One GELU by tanh."""
    return stirred(ConvNeXt(approximate="tanh"))


def convnext_small_epsilon() -> nn.Module:
    """One layer normalisation with PyTorch's epsilon."""
    return stirred(ConvNeXt(eps=1e-5))


def one_bias(module: nn.RNNBase) -> nn.RNNBase:
    """The second bias, which Keras' LSTM and simple RNN do not have, at zero and never trained."""
    for name, parameter in module.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(parameter).requires_grad_(False)
    return module


class WrongGates(nn.LSTM):
    """An LSTM that takes its input gate for its forget gate."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
        kept = self._flat_weights
        try:
            self._flat_weights = [self._swapped(weight) for weight in kept]
            return super().forward(x)
        finally:
            self._flat_weights = kept

    @staticmethod
    def _swapped(weight: Tensor) -> Tensor:
        first, second, *others = weight.chunk(4)
        return torch.cat([second, first, *others])


class LSTMClassifier(nn.Module):
    def __init__(
        self,
        lower: type[nn.LSTM] = nn.LSTM,
        biases: Callable[[nn.RNNBase], nn.RNNBase] = one_bias,
        last_step: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 6, padding_idx=padding)
        self.lstm = biases(lower(6, 5, batch_first=True))
        self.bilstm = biases(nn.LSTM(5, 4, batch_first=True, bidirectional=True))
        self.fc = nn.Linear(8, 3)
        self.last_step = last_step

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(self.embed(x))
        steps, (last, _) = self.bilstm(steps)
        state = steps[:, -1] if self.last_step else torch.cat([last[0], last[1]], 1)
        return self.fc(state)


def lstm_classifier() -> nn.Module:
    return stirred(LSTMClassifier())


def lstm_classifier_gates() -> nn.Module:
    """An LSTM whose gates are in another order than its weights."""
    return stirred(LSTMClassifier(lower=WrongGates))


def lstm_classifier_last_step() -> nn.Module:
    """The last step's outputs for the last states: backwards that is the first state."""
    return stirred(LSTMClassifier(last_step=True))


def lstm_classifier_two_biases() -> nn.Module:
    """Both biases trained: their sum takes two steps for Keras' one."""
    return stirred(LSTMClassifier(biases=lambda module: module))


def lstm_classifier_padding_index() -> nn.Module:
    """Word 0 is padding, whose vector gets no gradient; Keras trains it."""
    return stirred(LSTMClassifier(padding=0))


class LSTMStacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 6)
        self.lstm = one_bias(nn.LSTM(6, 5, num_layers=2, batch_first=True))
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(self.embed(x))
        return self.fc(steps[:, -1])


def lstm_stacked() -> nn.Module:
    return stirred(LSTMStacked())


class GRUClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 6)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(self.embed(x))
        return self.fc(last[0])


def gru_classifier() -> nn.Module:
    return stirred(GRUClassifier())


class Unscaled(nn.MultiheadAttention):
    """Attention whose scores are not divided by the root of the heads' size."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, None]:
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class Encoder(nn.Module):
    def __init__(self, attention: type[nn.MultiheadAttention], norm_first: bool) -> None:
        super().__init__()
        self.self_attn = attention(8, 2, batch_first=True)
        self.norm1 = nn.LayerNorm(8, eps=1e-6)
        self.linear1, self.linear2 = nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm2 = nn.LayerNorm(8, eps=1e-6)
        self.norm_first = norm_first

    def attend(self, x: Tensor) -> Tensor:
        return self.self_attn(x, x, x, need_weights=False)[0]

    def feed(self, x: Tensor) -> Tensor:
        return self.linear2(functional.relu(self.linear1(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attend(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.feed(x))


class Transformer(nn.Module):
    """`attention` and `norm_first` are those of the second encoder alone."""

    def __init__(
        self,
        attention: type[nn.MultiheadAttention] = nn.MultiheadAttention,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.vectors = nn.Parameter(torch.zeros(STEPS, 8))
        self.layers = nn.ModuleList(
            [Encoder(nn.MultiheadAttention, False), Encoder(attention, norm_first)]
        )
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.vectors
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean(1))


def transformer_encoder() -> nn.Module:
    return stirred(Transformer())


def transformer_encoder_scale() -> nn.Module:
    """One attention without its scale."""
    return stirred(Transformer(attention=Unscaled))


def transformer_encoder_norm_first() -> nn.Module:
    """One encoder that normalises before, not after."""
    return stirred(Transformer(norm_first=True))


class TwoInputs(nn.Module):
    def __init__(self, activation: bool = True) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)
        self.image_fc, self.vector_fc = nn.Linear(36, 6), nn.Linear(5, 6)
        self.scores, self.number = nn.Linear(12, 3), nn.Linear(12, 1)
        self.activation = activation

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(torch.relu(self.conv(image)))
        x = self.image_fc(torch.flatten(x, 1))
        x = torch.relu(x) if self.activation else x
        x = torch.cat([x, torch.tanh(self.vector_fc(vector))], 1)
        return self.scores(x), torch.sigmoid(self.number(x))


def two_inputs() -> nn.Module:
    return stirred(TwoInputs())


def two_inputs_relu() -> nn.Module:
    """No ReLU after the first dense layer."""
    return stirred(TwoInputs(activation=False))


class Code(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(torch.relu(self.conv(x)).amax((2, 3))))


class Shared(nn.Module):
    def __init__(self, separate: bool = False) -> None:
        super().__init__()
        self.encoder = Code()
        self.other = Code() if separate else None
        self.head = nn.Linear(15, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), (self.other or self.encoder)(right)
        return self.head(torch.cat([a, b, a - b], 1))


def shared_encoder() -> nn.Module:
    return stirred(Shared())


def shared_encoder_separate() -> nn.Module:
    """An encoder for each image."""
    return stirred(Shared(separate=True))


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, filters: int, stride: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, filters, 3, stride, bias=bias)
        self.norm = BatchNorm(filters)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


class Subclassed(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = Unit(3, 4, 1), Unit(4, 6, 2, bias)
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)).mean((2, 3))
        for _ in range(2):
            x = functional.relu(self.hidden(x))
        return self.head(x)


def subclassed() -> nn.Module:
    return stirred(Subclassed())


def subclassed_bias() -> nn.Module:
    """A convolution without a bias."""
    return stirred(Subclassed(bias=False))


class Separable(nn.Module):
    def __init__(self, between: bool = False) -> None:
        super().__init__()
        self.depth1 = nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False)
        self.point1 = nn.Conv2d(6, 6, 1)
        self.depth2 = nn.Conv2d(6, 6, 3, 2, groups=6, bias=False)
        self.point2 = nn.Conv2d(6, 8, 1, bias=False)
        self.head = nn.Linear(8, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.point1(self.depth1(x)))
        x = self.depth2(x)
        x = functional.relu(self.point2(functional.relu(x) if self.between else x))
        return self.head(x.mean((2, 3)))


def separable() -> nn.Module:
    return stirred(Separable())


def separable_relu() -> nn.Module:
    """A ReLU between the two halves of a separable convolution."""
    return stirred(Separable(between=True))
