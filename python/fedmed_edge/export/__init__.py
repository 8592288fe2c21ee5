"""A model and its generation in, one ONNX file out: encoder, lift, head, probabilities and manifest.

`onnx_model` writes the file · `graph` the operators that stand behind the encoder · `parity` compares the
file with the reference. Needs onnx alone: no torch; parity is checked where a runtime is installed.
"""
