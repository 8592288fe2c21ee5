"""Contributions in from the sites, generations and models out to them; no maths and no pixels.

`wire`, `messages` what crosses the wall · `server_side`, `site_side` its two ends · `parts`, `records`
on their disks · site: `outbox`, `inbox`, `asked`, `policy`, `duties`, `placing`, `egress` · server: `offers`,
`requests`, `rounds`, `candidates`, `styles`, `publishing`, `coordinator` · `engine/` or `loopback` carries.
"""
