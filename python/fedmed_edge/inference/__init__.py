"""Answers beside the scanner: a signed model and images in; labels, masks, probabilities and files out.

Torch-free. Public: `predict.load_model`, `predict.predict` (one image in memory), `inputs.find_inputs`,
`batch.infer` (many, onto disk), `results.Result`.
"""
