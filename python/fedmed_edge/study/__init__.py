"""Experiments: synthetic cohort, baselines, metrics and the runs behind `demo` and `bench-method`.

In: task folders. Out: figures with intervals. Imports every room below it, torch and MONAI among them.
Public: `cohort.write_cohort`, `metrics`.
"""
