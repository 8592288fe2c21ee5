"""Contributions, generations and models of a server in; what a rebuild needs out, with every site off.

One folder: content-addressed files and an SQLite index. Imports neither torch, MONAI nor pydicom.
Public names: Store; SiteEntry, ContributionEntry, ModelEntry, Withdrawal.
"""
