from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared_data.errors import InputError

keras = pytest.importorskip("keras")
loading = pytest.importorskip("keras_impl.loading")
parameters = pytest.importorskip("keras_impl.parameters")
layers = keras.layers

MODELS = """
import keras
import numpy as np
from keras import layers
from helper_of_models import UNITS

def build():
    x = keras.Input((3,))
    return keras.Model(x, layers.BatchNormalization()(layers.Dense(UNITS)(x)))

def pinned():
    x = keras.Input((3,), dtype="float32")
    y = layers.Dense(UNITS, activation=own, dtype="float32")(x)
    y = Doubled(dtype="mixed_bfloat16")(y)
    return keras.Model(x, layers.Dense(1)(y))

def own(x):
    return keras.ops.tanh(x) * 0.1

class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x

def adapted():
    layer = layers.Normalization(axis=-1)
    layer.adapt(np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]]))
    x = keras.Input((3,))
    return keras.Model(x, layer(x))

class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.dense = layers.Dense(UNITS)

    def call(self, x):
        return self.dense(x)

class Stubborn(Net):
    def __init__(self):
        keras.Model.__init__(self)
        self.dense = layers.Dense(UNITS, dtype="float32")

class Half(Net):
    def build(self, shape):
        self.scale = self.add_weight(shape=(3,), dtype="float16", name="scale")

    def call(self, x):
        return self.dense(x * self.scale)

def broken():
    return layers.Dense(-1)

def failing(units, activation, name="x"):
    pass

def layer():
    return layers.Dense(2)

def pair():
    return build(), 1

def kind():
    return Net

def moody(sizes=[2, 3]):
    return keras.Sequential([keras.Input((3,)), layers.Dense(sizes.pop())])

live = build()
number = 3
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "helper_of_models.py").write_text("UNITS = 2\n")  # beside the file
    (folder / "nets.py").write_text(MODELS)
    return folder / "nets.py"


def types(model: Any) -> set[str]:
    return {str(v.dtype) for v in model.weights} | {each.compute_dtype for each in model.layers}


def test_the_same_model_every_time(file: Path) -> None:
    first, second = (parameters.values(loading.load(f"{file}:build")) for _ in range(2))
    assert list(first) == [
        *("dense/kernel", "dense/bias", "batch_normalization/gamma", "batch_normalization/beta"),
        *("batch_normalization/moving_mean", "batch_normalization/moving_variance"),
    ]
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert loading.load(f"{file}:live").name


@pytest.mark.parametrize("name", ["build", "pinned", "Net"])
def test_float64_is_the_same_weights_cast_up(file: Path, name: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    inputs = {"input:0": x}
    single = loading.load(f"{file}:{name}", inputs=inputs)
    double = loading.load(f"{file}:{name}", precision="float64", inputs=inputs)
    assert "float32" in types(single) and types(double) == {"float64"}
    ours, theirs = parameters.values(single), parameters.values(double)
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        np.testing.assert_array_equal(value.astype("float64"), theirs[key])
    assert keras.config.floatx() == "float32"
    if name == "pinned":
        (w, b), (v, c) = (each.get_weights() for each in double.layers[1::2])
        expected = 2 * (0.1 * np.tanh(x @ w + b)) @ v + c
        np.testing.assert_allclose(double(x), expected, rtol=1e-14)
        assert loading.load(f"{file}:pinned", precision="float32", inputs=inputs)


def test_what_was_adapted_to_data_stays_so(file: Path, tmp_path: Path) -> None:
    x = np.array([[4.0, 4.0, 4.0]])
    double = loading.load(f"{file}:adapted", precision="float64")
    np.testing.assert_allclose(double(x), [[2, 0, -2 / 3]], rtol=1e-6)
    weights = parameters.values(double)
    weights["normalization/mean"] = np.zeros(3, np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    other = loading.load(f"{file}:adapted", str(tmp_path / "w.safetensors"), "float64")
    np.testing.assert_allclose(other(x), [[4, 2, 4 / 3]], rtol=1e-6)


def test_a_keras_file_in_both_precisions(file: Path, tmp_path: Path) -> None:
    model = loading.load(f"{file}:build")
    model.save(tmp_path / "model.keras")
    single = loading.load(str(tmp_path / "model.keras"))
    double = loading.load(str(tmp_path / "model.keras"), precision="float64")
    assert types(double) == {"float64"} and "float64" not in types(single)
    for own, other, third in zip(
        model.get_weights(), single.get_weights(), double.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(own, other)
        np.testing.assert_array_equal(own.astype("float64"), third)


def test_weights_from_a_file(file: Path, tmp_path: Path) -> None:
    weights = {
        name: value + 1 for name, value in parameters.values(loading.load(f"{file}:build")).items()
    }
    save_file(weights, tmp_path / "w.safetensors")
    for precision in (None, "float64"):
        model = loading.load(f"{file}:build", str(tmp_path / "w.safetensors"), precision)
        for name, value in parameters.values(model).items():
            np.testing.assert_array_equal(value, weights[name])
    weights["dense/kernal"] = weights.pop("dense/kernel")
    weights["dense/bias"] = np.zeros(3, np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        loading.load(f"{file}:build", str(tmp_path / "w.safetensors"))
    for part in (
        "dense/kernel: missing in the file; the model has it, [3, 2]",
        "dense/kernal: not in the model: did you mean 'dense/kernel'?",
        "dense/bias: [3] in the file, [2] in the model",
    ):
        assert part in str(caught.value)
    (tmp_path / "bad.safetensors").write_text("no")
    for name, message in (
        ("bad.safetensors", "damaged"),
        ("none.safetensors", "no file"),
        ("w.h5", "expected a .safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            loading.load(f"{file}:build", str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("buid", "has no 'buid': did you mean 'build'"),
        ("broken", r"raised ValueError: .*units.*nets.py, line \d+, in broken: return layers"),
        ("failing", r"needs arguments \(units, activation\)(.|\n)*failing\(units=\.\.\."),
        ("layer", "expected a keras.Model. Put the layer into a keras.Sequential"),
        ("pair", "returned a builtins.tuple: expected a keras.Model. Return the model alone"),
        ("kind", r"Return Net\(\), not the class"),
        ("number", "is a int, not a function"),
        ("Net", "makes its weights only when it is called: give the shapes"),
    ],
)
def test_a_bad_builder_is_refused_in_words(file: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loading.load(f"{file}:{name}")


def test_float32_that_is_written_into_a_model_is_overruled(file: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    made = loading.load(f"{file}:Stubborn", precision="float64", inputs={"input:0": x})
    assert types(made) == {"float64"}
    kernel, bias = made.get_weights()
    np.testing.assert_allclose(made(x), x @ kernel + bias, rtol=1e-14)


def test_what_stays_in_another_precision_is_refused_by_name(file: Path) -> None:
    inputs = {"input:0": np.ones((1, 3))}
    with pytest.raises(InputError, match=r"throughout:\n.*scale(.|\n)*--precision float32"):
        loading.load(f"{file}:Half", precision="float64", inputs=inputs)
    with pytest.raises(InputError, match="builds another model the second time"):
        loading.load(f"{file}:moody", precision="float64")


def test_a_bad_place_is_refused_in_words(file: Path, tmp_path: Path) -> None:
    (tmp_path / "syntax.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "text.keras").write_text("no archive")
    (tmp_path / "old.keras").write_bytes(b"\x89HDF\r\n\x1a\n")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("hello", "world")
    cases = {
        "build": "does not say which function builds the model",
        f"{tmp_path / 'none.py'}:build": r"there is no file .*none\.py",
        "no_such_module:build": "there is no module 'no_such_module'",
        f"{tmp_path / 'syntax.py'}:f": r"raised SyntaxError: .*syntax\.py, line 2",
        str(tmp_path / "none.keras"): "there is no file",
        str(tmp_path / "text.keras"): "is no .keras archive, or damaged",
        str(tmp_path / "old.keras"): "It is HDF5, the format of before",
        str(tmp_path / "other.keras"): "is no .keras archive",
    }
    for spec, message in cases.items():
        with pytest.raises(InputError, match=message):
            loading.load(spec)
    with pytest.raises(InputError, match="no precision 'half'"):
        loading.load(f"{file}:build", precision="half")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    ran = str(tmp_path / "ran")
    x = keras.Input((3,))
    y = layers.Lambda(lambda value, ran=ran: (open(ran, "w").close(), value)[1], (3,))(x)
    keras.Model(x, y).save(tmp_path / "lambda.keras")
    Path(ran).unlink(missing_ok=True)
    with pytest.raises(InputError, match="carries code, in a Lambda layer"):
        loading.load(str(tmp_path / "lambda.keras"))
    assert not Path(ran).exists()


class OfOnesOwn(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


def test_a_file_with_layers_of_ones_own(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((3,)), OfOnesOwn()]).save(tmp_path / "own.keras")
    with pytest.raises(InputError, match=r"Keras cannot load .*own.keras: .* give the function"):
        loading.load(str(tmp_path / "own.keras"))
