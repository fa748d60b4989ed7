"""Tiny pairs out of maintained libraries: KerasHub and keras.applications in Keras; transformers,
timm and torchvision in PyTorch. `requirements-libraries.txt` has the versions; weights are random.

Nothing is wrapped: what the libraries build is compared as it is, by the inputs chosen here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.recording import write_atomically
from parity.study.grid import markdown_table

WORDS, STEPS = 50, 7
NEEDED = ("keras_hub", "transformers", "timm", "torchvision")
REQUIREMENTS = "tests/zoo/requirements-libraries.txt"
VARIANCE = "running_var: unbiased in PyTorch, biased in Keras"


def missing() -> list[str]:
    """The packages that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


Builder = Callable[[], Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Library:
    """A pair out of two libraries.

    Attributes:
        keras, torch: builders, importing their libraries when called.
        inputs: by the names that the Keras model has for them.
        level: the last level at which both are the same function; "" where they are not at all.
        options: of the check.
        differs: what differs beyond that level.
        proof: the largest difference of an output and of a gradient, each relative to the largest
            number, when the weights were carried over name by name by a script outside this
            project, in float64 (what the libraries compute in float32 by themselves widened where
            that can be done), in inference and in training mode, dropout off.
    """

    name: str
    keras: Builder
    torch: Builder
    inputs: Callable[[np.random.Generator], Arrays]
    level: str = "trajectory"
    options: dict[str, Any] = field(default_factory=dict)
    differs: str = ""
    proof: tuple[float, float] = (0.0, 0.0)


def tokens(*names: str) -> Callable[[np.random.Generator], Arrays]:
    """Indices, segments and padding masks, as KerasHub names them."""

    def draw(rng: np.random.Generator) -> Arrays:
        found: Arrays = {}
        for name in sorted(names):  # the order in which Keras flattens a dict
            if name.endswith("mask"):
                lengths = np.array([STEPS, STEPS - 2, STEPS - 3, STEPS - 1])
                found[name] = (np.arange(STEPS) < lengths[:, None]).astype("int32")
            else:
                top = 2 if name == "segment_ids" else WORDS
                # 0 and 1 are padding where a library derives positions or masks from them.
                low = 0 if name == "segment_ids" else 3
                found[name] = rng.integers(low, top, (4, STEPS)).astype("int32")
        return found

    return draw


def images(size: int) -> Callable[[np.random.Generator], Arrays]:
    return lambda rng: {"input:0": rng.standard_normal((4, size, size, 3))}


PADDED = tokens("token_ids", "padding_mask")
SEGMENTED = tokens("token_ids", "segment_ids", "padding_mask")
SEQ2SEQ = tokens(
    "encoder_token_ids", "encoder_padding_mask", "decoder_token_ids", "decoder_padding_mask"
)
# What KerasHub and transformers call the same sizes.
SMALL = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 12}
HEADS = {**SMALL, "num_heads": 2}
GROUPED = {**SMALL, "num_query_heads": 4, "num_key_value_heads": 2}
POSITIONS = {"max_sequence_length": 16}
SIZES = {"vocab_size": WORDS, "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}
HEADED = {**SIZES, "num_attention_heads": 2}
GROUPS = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}


def hub(name: str, **sizes: Any) -> Builder:
    def build() -> Any:
        import keras_hub

        return getattr(keras_hub.models, f"{name}Backbone")(**sizes)

    return build


def hugging(name: str, *, model: str = "", arguments: Any = None, **sizes: Any) -> Builder:
    """A model of transformers by its configuration; `arguments` are the model's."""

    def build() -> Any:
        import transformers

        settings = getattr(transformers, f"{name}Config")(**sizes)
        return getattr(transformers, model or f"{name}Model")(settings, **arguments or {})

    return build


def application(name: str, size: int, **settings: Any) -> Builder:
    def build() -> Any:
        import keras

        made = getattr(keras.applications, name)
        settings_ = {"weights": None, "classes": 5, "classifier_activation": None, **settings}
        return made(input_shape=(size, size, 3), **settings_)

    return build


def image_model(name: str, **settings: Any) -> Builder:
    def build() -> Any:
        import timm

        return timm.create_model(name, pretrained=False, **{"num_classes": 5, **settings})

    return build


def efficient_net(arch: list[list[str]], **settings: Any) -> Builder:
    """timm's EfficientNet by its blocks: those that it names are of full size."""

    def build() -> Any:
        from functools import partial

        from timm.models import _efficientnet_builder as builder
        from timm.models.efficientnet import EfficientNet
        from torch import nn

        norm = partial(nn.BatchNorm2d, momentum=0.01)
        blocks = builder.decode_arch_def(arch)
        return EfficientNet(blocks, act_layer=nn.SiLU, norm_layer=norm, **settings)

    return build


TEXT = (
    Library(
        "bert",
        hub("Bert", **HEADS, **POSITIONS),
        hugging(
            "Bert",
            **HEADED,
            hidden_act="gelu_new",
            max_position_embeddings=16,
            arguments={"add_pooling_layer": True},
        ),
        SEGMENTED,
        proof=(3.4e-16, 3.2e-16),
    ),
    Library(
        "gpt2",
        hub("GPT2", **HEADS, **POSITIONS),
        hugging(
            "GPT2", vocab_size=WORDS, n_layer=2, n_embd=8, n_inner=12, n_head=2, n_positions=16
        ),
        PADDED,
        proof=(4e-16, 4.5e-16),
    ),
    Library(
        "llama",
        hub("Llama", **GROUPED),
        hugging("Llama", **GROUPS, rms_norm_eps=1e-6),
        PADDED,
        proof=(2e-07, 2.3e-07),
    ),
    Library(
        "mistral",
        hub("Mistral", **GROUPED),
        hugging("Mistral", **GROUPS, rms_norm_eps=1e-6, sliding_window=512),
        PADDED,
        proof=(2e-07, 2.3e-07),
    ),
    Library(
        "qwen2",
        hub("Qwen", **GROUPED),
        hugging("Qwen2", **GROUPS, rms_norm_eps=1e-6, rope_theta=10000.0),
        PADDED,
        proof=(8.4e-08, 1.4e-07),
    ),
    Library(
        "gemma",
        # KerasHub's size counts the gate and the other half together.
        hub("Gemma", **{**GROUPED, "intermediate_dim": 24}, head_dim=2),
        hugging("Gemma", **GROUPS, head_dim=2, rms_norm_eps=1e-6),
        PADDED,
        proof=(7e-07, 7.7e-07),
    ),
    Library(
        "distilbert",
        hub("DistilBert", **HEADS, **POSITIONS, dropout=0.0),
        hugging(
            "DistilBert",
            vocab_size=WORDS,
            n_layers=2,
            dim=8,
            hidden_dim=12,
            n_heads=2,
            max_position_embeddings=16,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        PADDED,
        differs="built without dropout: KerasHub alone drops behind the attention",
        proof=(4.1e-16, 2.2e-16),
    ),
    Library(
        "roberta",
        hub("Roberta", **HEADS, **POSITIONS),
        hugging(
            "Roberta",
            **HEADED,
            max_position_embeddings=18,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
            arguments={"add_pooling_layer": False},
        ),
        PADDED,
        level="",
        differs="PyTorch alone trains a segment row; with zeros there, the same",
        proof=(0.22, 0.34),
    ),
    Library(
        "albert",
        hub("Albert", **HEADS, **POSITIONS, embedding_dim=6),
        hugging("Albert", **HEADED, embedding_size=6, max_position_embeddings=16),
        SEGMENTED,
        proof=(4.6e-16, 4e-16),
    ),
    Library(
        "opt",
        hub("OPT", **HEADS, **POSITIONS),
        hugging(
            "OPT",
            vocab_size=WORDS,
            num_hidden_layers=2,
            hidden_size=8,
            word_embed_proj_dim=8,
            ffn_dim=12,
            num_attention_heads=2,
            max_position_embeddings=16,
        ),
        PADDED,
        level="",
        differs="positions: PyTorch counts by the mask, Keras all steps",
        proof=(0.078, 0.35),
    ),
    Library(
        "gpt_neox",
        hub("GPTNeoX", **HEADS, **POSITIONS, rotary_percentage=0.5),
        hugging(
            "GPTNeoX", **HEADED, max_position_embeddings=16, rotary_pct=0.5, hidden_act="gelu_new"
        ),
        PADDED,
        proof=(2.6e-10, 2e-09),
    ),
    Library(
        "bloom",
        hub("Bloom", **{**HEADS, "intermediate_dim": 32}),
        hugging("Bloom", vocab_size=WORDS, n_layer=2, hidden_size=8, n_head=2),
        PADDED,
        proof=(2.7e-10, 3.6e-10),
    ),
    Library(
        "bart",
        hub("Bart", **HEADS, **POSITIONS),
        hugging(
            "Bart",
            vocab_size=WORDS,
            d_model=8,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=12,
            decoder_ffn_dim=12,
            max_position_embeddings=16,
            attention_dropout=0.1,  # as KerasHub has it
        ),
        SEQ2SEQ,
        proof=(5.6e-16, 4.6e-16),
    ),
    Library(
        "t5",
        hub("T5", **HEADS, use_gated_activation=False),
        hugging("T5", vocab_size=WORDS, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2),
        SEQ2SEQ,
        proof=(4.7e-16, 2.3e-16),
    ),
)
IMAGES = (
    Library(
        "vit",
        hub(
            "ViT",
            image_shape=(16, 16, 3),
            patch_size=4,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=12,
        ),
        hugging(
            "ViT",
            **{k: v for k, v in HEADED.items() if k != "vocab_size"},
            image_size=16,
            patch_size=4,
            layer_norm_eps=1e-6,
            arguments={"add_pooling_layer": False},
        ),
        images(16),
        proof=(9e-16, 1.9e-15),
    ),
    Library(
        "deit",
        hub(
            "DeiT",
            image_shape=(16, 16, 3),
            patch_size=4,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=12,
        ),
        hugging(
            "DeiT",
            **{k: v for k, v in HEADED.items() if k != "vocab_size"},
            image_size=16,
            patch_size=4,
            layer_norm_eps=1e-6,
            arguments={"add_pooling_layer": False},
        ),
        images(16),
        proof=(5.3e-16, 1e-15),
    ),
    Library(
        "swin",
        hub(
            "SwinTransformer",
            image_shape=(32, 32, 3),
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
            window_size=4,
            drop_path=0.0,
        ),
        hugging(
            "Swin",
            image_size=32,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
            window_size=4,
            drop_path_rate=0.0,
            arguments={"add_pooling_layer": False},
        ),
        images(32),
        proof=(4.5e-09, 4.5e-09),
    ),
    Library(
        "mobilenet_v2",
        application("MobileNetV2", 32),
        image_model("mobilenetv2_100", pad_type="same", bn_eps=1e-3, bn_momentum=1e-3),
        images(32),
        level="gradient",
        differs=VARIANCE,
        proof=(4.5e-13, 1.4e-12),
    ),
    Library(
        "mobilenet_v3",
        application("MobileNetV3Small", 64, include_preprocessing=False, dropout_rate=0.0),
        image_model("tf_mobilenetv3_small_100", bn_eps=1e-3, bn_momentum=1e-3),
        images(64),
        level="gradient",
        differs=VARIANCE,
        proof=(4.2e-15, 3.1e-09),
    ),
    Library(
        "resnet",
        hub(
            "ResNet",
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128],
            stackwise_num_blocks=[2, 2],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=(32, 32, 3),
        ),
        hugging(
            "ResNet", embedding_size=64, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"
        ),
        images(32),
        level="gradient",
        differs=VARIANCE,
        proof=(3.5e-15, 2.9e-15),
    ),
    Library(
        "efficientnet",
        hub(
            "EfficientNet",
            stackwise_kernel_sizes=[3, 3, 5],
            stackwise_num_repeats=[1, 2, 2],
            stackwise_input_filters=[16, 8, 16],
            stackwise_output_filters=[8, 16, 24],
            stackwise_expansion_ratios=[1, 4, 4],
            stackwise_strides=[1, 2, 2],
            stackwise_squeeze_and_excite_ratios=[0.25] * 3,
            stackwise_block_types=["v1"] * 3,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            dropout=0.0,
            num_features=32,
            batch_norm_momentum=0.99,
            input_shape=(32, 32, 3),
        ),
        efficient_net(
            [
                ["ds_r1_k3_s1_e1_c8_se0.25"],
                ["ir_r2_k3_s2_e4_c16_se0.25"],
                ["ir_r2_k5_s2_e4_c24_se0.25"],
            ],
            stem_size=16,
            num_features=32,
            num_classes=0,
            global_pool="",
        ),
        images(32),
        level="gradient",
        differs=VARIANCE,
        proof=(1.6e-15, 2.9e-15),
    ),
)
PAIRS = (*TEXT, *IMAGES)


def check_all(names: Iterable[str], out: Path) -> int:
    """Judge pairs in this process, each also with every fault that fits; keep what came out."""
    if absent := missing():
        print(f"not installed: {', '.join(absent)}; see {REQUIREMENTS}", file=sys.stderr)
        return 2
    known = {pair.name: pair for pair in PAIRS}
    if unknown := [name for name in names if name not in known]:
        print(f"no such pair {unknown[0]!r}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Nothing here needs triton, whose LLVM ends a process that has TensorFlow loaded.
    sys.modules["triton"] = None  # type: ignore[assignment]
    # PyTorch's side first, for the same reason.
    for name in ("torchvision", "timm", "transformers", "keras_hub"):
        importlib.import_module(name)
    path = out / "libraries.json"
    kept = json.loads(path.read_text())["pairs"] if path.exists() else []
    rows = {row["pair"]: row for row in kept}
    for name in list(names) or known:
        rows[name] = judged(known[name])
        found = [rows[each] for each in known if each in rows]
        text = json.dumps({"schema": 1, "pairs": found}, indent=1)
        write_atomically(path, text.encode() + b"\n")  # a pair takes a minute: none is lost
        write_atomically(path.with_suffix(".md"), page(found).encode())
    return 0 if all(row["right"] and not missed(row) for row in rows.values()) else 1


def judged(pair: Library) -> dict[str, Any]:
    from tests.zoo import library_faults

    row: dict[str, Any] = {
        "pair": pair.name,
        "truth": truth(pair),
        "proof": pair.proof,
        "differs": pair.differs,
    }
    row |= _check(pair, pair.torch)
    row["right"] = is_right(pair, row)
    row["faults"] = []
    if row["right"] and pair.level:  # a fault in what differs by itself shows nothing
        given = pair.inputs(np.random.default_rng(0))
        for kind in library_faults.FAULTS:
            if kind == "mask" and not any(name.endswith("mask") for name in given):
                continue  # what no mask is given to looks at none
            done: list[str] = []

            def build(kind: str = kind, done: list[str] = done) -> Any:
                model = pair.torch()
                done.append(library_faults.plant(kind, model))
                return model

            build()
            if done[0]:
                found = _check(pair, build, examination="quick", level="gradient")
                row["faults"].append({"kind": kind, "done": done[0], **found})
    print(f"{pair.name}: {row['verdict']} {row['said']}", file=sys.stderr)
    return row


def truth(pair: Library) -> str:
    """In one word and a level: the last at which both are the same function."""
    if pair.level == "trajectory":
        return "same"
    return f"same up to {pair.level}" if pair.level else "differs"


def missed(row: dict[str, Any]) -> list[str]:
    """The kinds of planted faults that passed."""
    return [each["kind"] for each in row["faults"] if each["verdict"] == "pass"]


def _check(pair: Library, torch_builder: Builder, **options: Any) -> dict[str, Any]:
    import keras
    import torch

    from parity.check import pairs
    from shared_data.errors import InputError

    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    inputs = pair.inputs(np.random.default_rng(0))
    asked = {"level": "trajectory", **pair.options, **options}
    begun = time.monotonic()
    try:
        report = pairs.check(pair.keras, torch_builder, inputs, **asked).to_dict()
    except InputError as error:
        report = {"verdict": "refused", "levels": [], "coverage": {}, "said": str(error)}
    return {
        "verdict": report["verdict"],
        "levels": {each["level"]: each["verdict"] for each in report["levels"]},
        "coverage": report["coverage"],
        "said": re.sub(r" ?\(/.*", "", " ".join(report.get("said", "").split()))[:200],
        "seconds": time.monotonic() - begun,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def is_right(pair: Library, row: dict[str, Any]) -> bool:
    if pair.level == "trajectory":
        return bool(row["verdict"] == "pass")
    failed = [level for level, verdict in row["levels"].items() if verdict == "fail"]
    if row["verdict"] != "fail" or not pair.level:
        return bool(row["verdict"] == "fail")
    order = list(row["levels"])
    return order.index(failed[0]) > order.index(pair.level)


def page(rows: list[dict[str, Any]]) -> str:
    heading = [
        "pair",
        "truth",
        "apart (output, gradient)",
        "differs",
        "verdict",
        "right",
        "coverage",
        "s",
        "GB",
        "faults",
    ]
    cells = [
        [
            row["pair"],
            row["truth"],
            " ".join(f"{value:.0e}" for value in row["proof"]),
            row["differs"],
            row["verdict"],
            "yes" if row["right"] else "no",
            ", ".join(
                f"{100 * row['coverage'][name]:.0f} % of {name}"
                for name in ("parameters", "layers")
                if name in row["coverage"]
            ),
            f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.1f}",
            ", ".join(f"{each['kind']} {each['verdict']}" for each in row["faults"]),
        ]
        for row in rows
    ]
    right = sum(row["right"] for row in rows)
    faults = [each["verdict"] for row in rows for each in row["faults"]]
    summary = [
        f"- verdicts right: {right} of {len(rows)}",
        f"- planted faults: {len(faults)}, passed: {faults.count('pass')}",
        "- truth: by a script outside the project, in float64; weights carried by name (T5's by a "
        "list; MobileNet's and EfficientNet's layer by layer, in their order)",
        "- planted faults: quick examination, up to gradient; none in a pair that differs anyway",
        "- GB: the largest so far of the one process that checks all pairs",
    ]
    return "\n".join([*summary, "", *markdown_table(heading, cells, left=7)]) + "\n"
