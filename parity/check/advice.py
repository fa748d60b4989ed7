"""What to write on the port's side, so that it has the reference's setting."""

from __future__ import annotations

from typing import Any

# What a setting is called as an argument: PyTorch's, then Keras'.
ARGUMENTS = {
    "epsilon": ("eps", "epsilon"),
    "scale": ("affine", "scale"),
    "center": ("affine", "center"),
    "kernel_size": ("kernel_size", "kernel_size"),
    "strides": ("stride", "strides"),
    "groups": ("groups", "groups"),
    "rate": ("p", "rate"),
    "alpha": ("alpha", "alpha"),
    "heads": ("num_heads", "num_heads"),
    "head_size": ("", "key_dim"),
    "layers": ("num_layers", ""),
    "negative_slope": ("negative_slope", "negative_slope"),
    "dilation": ("dilation", "dilation_rate"),
    "bias": ("bias", "use_bias"),
    "padding_idx": ("padding_idx", ""),
    "count_include_pad": ("count_include_pad", ""),
    "size": ("kernel_size", "pool_size"),
    "units": ("hidden_size", "units"),
    "bidirectional": ("bidirectional", ""),
    "batch_first": ("batch_first", ""),
    "align_corners": ("align_corners", ""),
    "interpolation": ("mode", "interpolation"),
    "axis": ("dim", "axis"),
    "activation": ("", "activation"),
    "recurrent_activation": ("", "recurrent_activation"),
    "reset_after": ("", "reset_after"),
    "mask_zero": ("", "mask_zero"),
    "momentum": ("momentum", "momentum"),
    "approximate": ("approximate", "approximate"),
}
NAMES = {"keras": "Keras", "torch": "PyTorch"}
LENGTHS = {"upsample": {"size": ("scale_factor", "size")}}  # where a kind has another name for it


def setting(port: str, kind: str, key: str, value: Any) -> str:
    """The argument of the port's layer that gives the other side's value."""
    if key == "unbiased":
        name = "running_var" if port == "torch" else "moving_variance"
        return f"update {name} with the batch's {'unbiased' if value else 'biased'} variance"
    if key == "frozen":
        return _frozen(port, value)
    if key == "padding" and isinstance(value, list):
        return _transposed(port, value) if "transpose" in kind else _padding(port, kind, value)
    if port == "torch" and key == "momentum" and isinstance(value, float):
        value = round(1 - value, 12)  # of the new value, where Keras has that of the old
    if port == "torch" and key == "approximate":
        value = "tanh" if value else "none"
    names = LENGTHS.get(kind, {}).get(key) or ARGUMENTS.get(key, ("", ""))
    name = names[port == "keras"]
    if not name:
        other = NAMES["keras" if port == "torch" else "torch"]
        return f"{other} has {key.replace('_', ' ')} {shown(value)} here"
    value = tuple(value) if isinstance(value, list) else value
    written = f"{value:g}" if isinstance(value, float) else repr(value).replace("'", '"')
    return f"{name}={written}"


def shown(value: Any) -> str:
    return "(none)" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _frozen(port: str, frozen: bool) -> str:
    if port == "keras":
        return f"trainable={not frozen}"
    return "eval() after every train(), so that its statistics stay" if frozen else "leave train()"


def _padding(port: str, kind: str, sides: list[list[int]]) -> str:
    lowest = kind == "max_pool"
    if port == "keras":
        if not any(map(any, sides)):
            return 'padding="valid"'
        if lowest:
            return f'padding="valid", with ops.pad(…, {sides}, constant_values=-inf) before it'
        pairs = tuple(map(tuple, sides))
        return f'padding="valid", with ZeroPadding{len(sides)}D({pairs}) before it'
    if all(before == after for before, after in sides):
        return f"padding={tuple(before for before, _ in sides)}"
    around = tuple(size for pair in reversed(sides) for size in pair)
    value = ', value=float("-inf")' if lowest else ""
    return f"padding=0, with F.pad(x, {around}{value}) before it"


def _transposed(port: str, cut: list[list[int]]) -> str:
    """Of a transposed convolution: what is cut off its full result, before and after."""
    if port == "keras":
        pairs = tuple(map(tuple, cut))
        cropped = f", with Cropping{len(cut)}D({pairs}) after it" if any(map(any, cut)) else ""
        return f'padding="valid"{cropped}'
    more = [before - after for before, after in cut]
    if min(more) >= 0:
        padding = f"padding={tuple(before for before, _ in cut)}"
        return padding + (f", output_padding={tuple(more)}" if any(more) else "")
    around = tuple(-size for pair in reversed(cut) for size in pair)
    return f"padding=0, output_padding=0, with F.pad(y, {around}) after it"
