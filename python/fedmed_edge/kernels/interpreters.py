"""Refuses a sub-interpreter, in which loading the kernels would wait for ever.

From Python 3.12 on the compiled modules refuse it themselves.
"""

import importlib
import sys

if sys.version_info < (3, 12):
    interpreters = importlib.import_module("_xxsubinterpreters")
    if interpreters.get_current() != interpreters.get_main():
        raise ImportError("fedmed_edge.kernels: is imported in a sub-interpreter, expected the main one")
