"""Contributions, generations and models of a server in; what a rebuild needs out, with every site off.

Content-addressed files and an index: one folder, or a PostgreSQL and a bucket. A ledger tells who did what.
Imports neither torch, MONAI nor pydicom.
Public names: Store, open_store; SiteEntry, ContributionEntry, ModelEntry, LedgerEntry, Withdrawal.
"""
