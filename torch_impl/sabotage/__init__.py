"""Faults for any PyTorch model, as its author could have made them: `OPERATORS`.

`python -m parity.selftest --pair` plants them, one at a time, and sees whether `parity.check`
catches and places them. All is plain PyTorch: a module's forward, or one call in it, is another, or
an attribute is. Nothing here knows what finds them. (`faults.py` has those of the study's network.)
"""

from torch_impl.sabotage import anywhere, functions, layers, sequences  # noqa: F401 - they register
from torch_impl.sabotage.places import OPERATORS, Place, length, planted, seen
from torch_impl.sabotage.proof import drawn, numbers

__all__ = ["OPERATORS", "Place", "drawn", "length", "numbers", "planted", "seen"]
