"""Carries what crosses the wall over NVIDIA FLARE; the only importer of nvflare.

In: a hospital's request, `server_side.serve`, `site_side.sync`. Out: connections by mutual TLS and the
processes that hold them. `enrolment` request and signed answer · `authority`, `kits` certificates and
settings · `identities` which certificate is whose · `apps`, `channel`, `sessions` the sync job ·
`supervisor`, `processes`.
"""
