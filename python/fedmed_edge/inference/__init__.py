"""Answers beside the scanner: a signed model and images in; labels, masks, probabilities and files out.

Torch-free. Public: `predict.load_model`, `predict.predict` (one image in memory), `study.answer_study` (files
of any kind, onto disk), `inputs.find_inputs` and `batch.infer` (its two halves), `result.Result`.
"""
