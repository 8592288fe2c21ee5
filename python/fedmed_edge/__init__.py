"""FedMed Edge: hospitals train a medical-imaging model together; their images stay at home."""

import os

# Forced, and before anything can import onnxruntime: a hospital's machine calls nobody.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Before torch brings in its OpenMP: threads that spin while they wait take eight times the processor time
# as soon as another program wants a core. A hospital that knows better may set it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
