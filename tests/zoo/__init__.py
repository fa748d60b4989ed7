"""Pairs of models for `parity.check`, and what is known of each beforehand.

What is known was read in the sources: `keras/src/applications/<model>.py` and
`torchvision/models/<model>.py` for the published pairs, `keras_models.py` and `torch_models.py`
here for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = ((32, 32, 3),)
LARGER = (
    (64, 64, 3),
)  # ResNet50 makes one pixel of less, whose statistics a batch of 4 hardly has
SMALL = ((12, 12, 3),)
SENTENCE = ((7,),)
WORDS = 30

# Said of several published models; the place in the sources stands beside each use.
_STATISTICS = "moving variance: biased in Keras, times n / (n - 1) in PyTorch"
_MOMENTUM = "batch norm momentum: Keras keeps 0.99 of the old value, PyTorch 0.9"
_EPSILON = "batch norm epsilon: 1.001e-5 in Keras, 1e-5 in PyTorch"
_POOL_PAD = "first max pool: zeros in Keras, minus infinity in PyTorch; alike after a ReLU"
_CLASSIFIER_DROPOUT = (
    "dropout of 0.5 after both hidden layers of PyTorch's classifier, none in Keras"
)
_ADAPTIVE = "AdaptiveAvgPool2d((7, 7)) before PyTorch's classifier: nothing at 224x224"


@dataclass(frozen=True)
class Pair:
    """A Keras model, a PyTorch model, and what must come out when they are compared.

    Attributes:
        name: of the PyTorch builder, unless two pairs share it.
        keras, torch: builders, without the file: `keras_models.py`, `torch_models.py`.
        shapes: of the inputs in Keras' layout, without the batch.
        words: integer inputs are below it; 0 where inputs are of floating type.
        verdict: "pass" or "fail".
        level: where a failing pair fails first, if what the sides declare differently counts.
        numbers: where it fails first by numbers alone, in float64 with dropout switched off;
            empty where numbers do not tell, so that a checker must go by what is declared.
        named: PyTorch modules one of which must be named; empty where all are concerned.
        differs: what differs.
    """

    name: str
    keras: str
    torch: str
    shapes: tuple[tuple[int, ...], ...]
    words: int = 0
    verdict: str = "pass"
    level: str = ""
    numbers: str = ""
    named: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def keras_spec(self) -> str:
        return f"tests/zoo/keras_models.py:{self.keras}"

    @property
    def torch_spec(self) -> str:
        return f"tests/zoo/torch_models.py:{self.torch}"

    @property
    def torch_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs' shapes in PyTorch's layout."""
        return tuple((s[2], s[0], s[1]) if len(s) == 3 else s for s in self.shapes)


def _twin(
    name: str,
    shapes: tuple[tuple[int, ...], ...],
    words: int = 0,
    *,
    keras: str = "",
    differs: tuple[str, ...] = (),
) -> Pair:
    return Pair(name, keras or name, name, shapes, words, differs=differs)


def _mistake(
    of: Pair, what: str, numbers: str, named: tuple[str, ...], differs: str, level: str = ""
) -> Pair:
    name = f"{of.name}_{what}"
    return Pair(
        *(name, of.keras, name, of.shapes, of.words),
        verdict="fail",
        level=level or "structure",
        numbers=numbers,
        named=named,
        differs=(differs,),
    )


PUBLISHED = (
    Pair(
        *("vgg16", "vgg16", "vgg16", ((224, 224, 3),)),
        verdict="fail",
        level="structure",
        named=("classifier.2", "classifier.5"),
        differs=(_CLASSIFIER_DROPOUT, _ADAPTIVE),  # vgg16.py: include_top; vgg.py: VGG.__init__
    ),
    _twin("vgg16_without_dropout", ((224, 224, 3),), keras="vgg16", differs=(_ADAPTIVE,)),
    Pair(
        *("vgg19", "vgg19", "vgg19", ((224, 224, 3),)),
        verdict="fail",
        level="structure",
        named=("classifier.2", "classifier.5"),
        differs=(_CLASSIFIER_DROPOUT, _ADAPTIVE),
    ),
    _twin("vgg19_without_dropout", ((224, 224, 3),), keras="vgg19", differs=(_ADAPTIVE,)),
    Pair(
        *("resnet50", "resnet50", "resnet50", LARGER),
        verdict="fail",
        level="structure",
        numbers="forward",
        named=("layer2.0.conv1", "layer2.0.conv2", "conv1", "bn1"),
        differs=(
            # resnet.py: residual_block_v1; resnet.py: Bottleneck
            "stride 2 in the first (1x1) convolution of a stage in Keras, in the 3x3 in PyTorch",
            "all convolutions have a bias in Keras, none in PyTorch",
            _EPSILON,
            _MOMENTUM,
            _STATISTICS,
            _POOL_PAD,
        ),
    ),
    _twin("resnet50_aligned", LARGER, keras="resnet50", differs=(_POOL_PAD,)),
    Pair(
        *("densenet121", "densenet121", "densenet121", IMAGE),
        verdict="fail",
        level="structure",
        numbers="forward",  # by some 5e-9 for each batch normalisation: float64 alone tells
        named=("features.norm0",),
        # densenet.py: conv_block, transition_block; densenet.py: DenseNet.__init__
        differs=(_EPSILON, _MOMENTUM, _STATISTICS, _POOL_PAD),
    ),
    _twin("densenet121_aligned", IMAGE, keras="densenet121", differs=(_POOL_PAD,)),
    Pair(
        *("mobilenet_v2", "mobilenet_v2", "mobilenet_v2", IMAGE),
        verdict="fail",
        level="structure",
        numbers="forward",
        named=("features.0.0",),
        differs=(
            # mobilenet_v2.py: Conv1 and correct_pad; misc.py: ConvNormActivation
            "stride 2 at even sizes: zeros after the last row alone in Keras, on both in PyTorch",
            "batch norm epsilon: 1e-3 in Keras, 1e-5 in PyTorch",
            "batch norm momentum: Keras keeps 0.999 of the old value, PyTorch 0.9",
            _STATISTICS,
            "dropout of 0.2 before PyTorch's classifier, none in Keras",
        ),
    ),
    _twin("mobilenet_v2_aligned", ((33, 33, 3),), keras="mobilenet_v2_odd"),
    Pair(
        *("convnext_tiny", "convnext_tiny", "convnext_tiny", IMAGE),
        verdict="fail",
        level="structure",
        numbers="forward",
        named=("features.0.0", "features.1.1.stochastic_depth"),
        differs=(
            # convnext.py: PreStem, ConvNeXtTiny; convnext.py: convnext_tiny
            "Keras normalises its inputs, by ImageNet's mean and deviation of 0 to 255",
            "stochastic depth of up to 0.1 in PyTorch, none in Keras",
        ),
    ),
    _twin("convnext_tiny_aligned", IMAGE, keras="convnext_tiny_bare"),
)

_VGG = _twin("vgg_small", SMALL, differs=("AdaptiveAvgPool2d((3, 3)) of a 3x3 map: nothing",))
_RESNET = _twin("resnet_small", SMALL, differs=(_POOL_PAD,))
_DENSENET = _twin("densenet_small", SMALL)
_MOBILENET = _twin("mobilenet_small", SMALL)
_CONVNEXT = _twin("convnext_small", ((16, 16, 3),))
_ONE_BIAS = "PyTorch's second bias of an LSTM: zero and not trained"
_LSTM = _twin("lstm_classifier", SENTENCE, WORDS, differs=(_ONE_BIAS,))
_STACKED = _twin(
    *("lstm_stacked", SENTENCE, WORDS),
    differs=("two layers in Keras, one module of two layers in PyTorch", _ONE_BIAS),
)
_GRU = _twin("gru_classifier", SENTENCE, WORDS)
_TRANSFORMER = _twin("transformer_encoder", SENTENCE, WORDS)
_TWO = _twin("two_inputs", ((8, 8, 3), (5,)))
_SHARED = _twin("shared_encoder", ((8, 8, 3), (8, 8, 3)))
_SUBCLASSED = _twin("subclassed", ((9, 9, 3),))
_SEPARABLE = _twin("separable", ((9, 9, 3),))

FAITHFUL = (
    *(_VGG, _RESNET, _DENSENET, _MOBILENET, _CONVNEXT, _LSTM, _STACKED, _GRU, _TRANSFORMER),
    *(_TWO, _SHARED, _SUBCLASSED, _SEPARABLE),
)

MISTAKEN = (
    _mistake(
        *(_VGG, "padding", "forward", ("features.5",)),
        "padding 0 for 1 in a convolution; the pool before the classifier hides the smaller map",
    ),
    _mistake(
        *(_RESNET, "epsilon", "forward", ("layer1.0.bn2",)), "batch norm epsilon 1e-5 for 1e-3"
    ),
    _mistake(
        *(_RESNET, "momentum", "update", ("layer1.0.bn2",)),
        "batch norm keeps 0.01 of the old value for 0.99: Keras' number in PyTorch",
    ),
    _mistake(*(_RESNET, "plain_bn", "update", ()), f"all batch norms: {_STATISTICS}"),
    _mistake(
        *(_RESNET, "stride", "forward", ("layer2.0.conv1", "layer2.0.conv2")),
        "stride 2 in the second convolution of a block for the first",
    ),
    _mistake(
        *(_DENSENET, "order", "forward", ("block1.1", "norm")),
        "new maps before the old ones in a concatenation",
    ),
    _mistake(
        *(_MOBILENET, "padding", "forward", ("features.2.conv.3",)),
        "stride 2 at an even size: zeros on both sides for one side",
    ),
    _mistake(
        *(_MOBILENET, "relu", "", ("features.2.conv.2",)),
        "a ReLU for a ReLU6: numbers show it only above 6",
    ),
    _mistake(*(_CONVNEXT, "gelu", "forward", ("stage2.act",)), "a GELU by tanh for an exact one"),
    _mistake(
        *(_CONVNEXT, "epsilon", "forward", ("stage2.norm",)), "layer norm epsilon 1e-5 for 1e-6"
    ),
    _mistake(
        *(_LSTM, "gates", "forward", ("lstm",)),
        "the input gate's weights in the forget gate; nothing declares it",
        level="forward",
    ),
    _mistake(
        *(_LSTM, "last_step", "forward", ("bilstm", "fc")),
        "the last step's outputs for the last states: another state of the backward half",
        level="forward",
    ),
    _mistake(
        *(_LSTM, "two_biases", "update", ("lstm", "bilstm")),
        "both biases of the LSTMs are trained: their sum takes two steps",
    ),
    _mistake(
        *(_LSTM, "padding_index", "gradient", ("embed",)),
        "word 0 is padding in PyTorch: its vector gets no gradient",
        level="gradient",
    ),
    Pair(
        *("gru_classifier_reset_before", "gru_classifier_reset_before", "gru_classifier"),
        *(SENTENCE, WORDS, "fail", "structure", "forward", ("gru",)),
        ("Keras' GRU resets before the recurrent product, PyTorch's after: one bias for two",),
    ),
    _mistake(
        *(_TRANSFORMER, "scale", "forward", ("layers.1.self_attn",)),
        "scores of an attention not divided by the root of the heads' size",
        level="forward",
    ),
    _mistake(
        *(_TRANSFORMER, "norm_first", "forward", ("layers.1.norm1", "layers.1.self_attn")),
        "layer norm before attention and feed-forward for after",
    ),
    _mistake(*(_TWO, "relu", "forward", ("image_fc",)), "no ReLU after a dense layer"),
    _mistake(
        *(_SHARED, "separate", "transfer", ("other.conv", "other.fc")),
        "an encoder for each input for one that both share",
    ),
    _mistake(*(_SUBCLASSED, "bias", "transfer", ("second.conv",)), "a convolution without a bias"),
    _mistake(
        *(_SEPARABLE, "relu", "forward", ("depth2", "point2")),
        "a ReLU between the two halves of a separable convolution",
    ),
)

PAIRS = {pair.name: pair for pair in (*PUBLISHED, *FAITHFUL, *MISTAKEN)}
