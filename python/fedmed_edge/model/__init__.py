"""Contributions in, models out: rebuilt in closed form from stored sums, with no image and no site online.

`rebuild` the global model · `evaluate` what the sums tell · `distance` how far sites are apart · `refine`
one site's model · `global_model` the result and its file · `posterior` scores to probabilities · `manifest`
what an exported model says of itself (all of this room that inference needs) · `solve`, `sums`, `heldout`.
"""
