"""Rows of features in, sums out: what one hospital hands over.

Public names: FeatureStatistics; plan_folds, FoldPlan, Accumulator; log_amplitude; bin_counts; Contribution,
ContributionHeader, new_contribution, read_contribution, write_contribution; describe.
"""
