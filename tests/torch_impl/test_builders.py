from __future__ import annotations

import numpy as np
import oracle
import pytest

from parity import weights
from parity.experiment import Experiment

torch = pytest.importorskip("torch")
torch_impl = pytest.importorskip("torch_impl.builders")
training = pytest.importorskip("torch_impl.training")

SMALL = {"precision": "float64", "width": 0.1}


@pytest.mark.parametrize(("padding", "count"), [(0, 3_208_770), (1, 6_354_498)])
def test_parameter_counts_are_the_published(padding: int, count: int) -> None:
    model = torch_impl.build_cnn("baseline", padding=padding)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("padding", [0, 1])
def test_additional_layers_have_a_seventh_block_and_a_1024_head(padding: int) -> None:
    model = torch_impl.build_cnn("additional_layers", padding=padding)
    assert model.block7.conv.out_channels == 1024
    assert model.dense1.out_features == 1024
    experiment = Experiment.of("additional_layers", "paper", padding=padding)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == weights.parameter_count(experiment)


@pytest.mark.parametrize(
    ("variant", "padding", "size"),
    [("baseline", 0, 190), ("baseline", 1, 70), ("additional_layers", 0, 254)],
)
def test_output_is_that_of_the_numpy_network(variant: str, padding: int, size: int) -> None:
    experiment = Experiment.of(variant, padding=padding, image_size=size, **SMALL)
    drawn = weights.draw(experiment)
    model = torch_impl.build(experiment)
    for spec, parameter in zip(weights.specs(experiment), model.parameters(), strict=True):
        parameter.data = torch.from_numpy(weights.to_torch(spec, drawn[spec.name]))
    images, _ = oracle.batch(experiment, 2)
    got = model(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    assert got.dtype == np.float64
    np.testing.assert_allclose(
        got, oracle.logits(experiment, drawn, images), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("padding", [0, 1])
def test_relu_after_the_pool_gives_the_bits_of_the_plain_order(
    precision: str, padding: int
) -> None:
    experiment = Experiment.of(padding=padding, width=0.2, precision=precision)

    class Plain(torch_impl.Block):  # type: ignore[misc,name-defined]
        def forward(self, x: object) -> object:
            return self.pool(self.relu(self.conv(x)))

    results = []
    for block in (torch_impl.Block, Plain):
        trainer = training.Trainer(experiment, 2)
        trainer.load(weights.draw(experiment))
        for number in range(1, 7):
            trainer.model.get_submodule(f"block{number}").__class__ = block
        losses = [trainer.train_batch(*oracle.batch(experiment, 8, seed)) for seed in range(4)]
        results.append((losses, {name: v.tobytes() for name, v in trainer.weights().items()}))
    assert results[0] == results[1]


def test_building_by_name_from_the_package() -> None:
    import torch_impl as package

    assert len(package.build(Experiment.of(**SMALL))) == 10
    assert package.build_cnn is torch_impl.build_cnn
