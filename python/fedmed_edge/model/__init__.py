"""Contributions in, models out: rebuilt in closed form from stored sums, with no image and no site online.

`rebuild` the global model · `evaluate`, `suspects`, `distance` what the sums tell · `refine` one site's
model, by `generator`, `episodes`, `mix` where they do better · `global_model` the result · `posterior` its
probabilities · `manifest` what an exported model says of itself, all that inference needs · `sums`, `solve`.
"""
