"""Methods that `bench-method` compares: ours, controls, peers, the ceiling; `method.py` says what one is.

In: a case (what every hospital may learn from). Out: predictors by site, and what they cost every site.
One file a family; adding a method is a function there and its line in `registry.METHODS`.
"""
