"""Is the PyTorch port of this Keras model the same model?

`parity` describes experiments, runs them in one process per framework, and judges the recordings.
It imports no framework: see `keras_impl` and `torch_impl` for the two sides.
"""
