"""The server's unlabelled images and the sites' local models in, the next generation's backbone out.

`pool` the images · `local_models` what stored contributions make of a generation · `merging` where a stage
starts from · `mim`, `distillation` what it learns by · `stage` the learning, resumable · `standardise` from
weights to a generation. All but `pool` and `local_models` load torch.
"""
