"""Is this PyTorch model the same as that Keras model? For any pair: `python -m parity.check`.

Each side is built, looked at and run in a process of its own. A wing describes its model as a
`graph.Graph` and runs it as a `trace.Trace`; everything here compares the two with NumPy alone.
"""

LEVELS = (
    *("structure", "transfer", "forward", "loss", "gradient"),
    *("randomness", "buffers", "update", "trajectory"),
)
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
EXAMINATIONS = ("quick", "default", "thorough")
ALLOWED = ("regularisers",)  # what may be declared on one side alone, if that is known
