"""Contributions in from the sites, generations and models out to them; no maths and no pixels.

Free of any engine but for `engine/`, which carries the bytes. `wire` what crosses the wall · `server_side`,
`site_side` the two ends · `outbox`, `egress`, `policy`, `duties` at a site · `offers`, `requests`, `rounds`,
`coordinator` at the server · `parts` a file that comes in parts, at either end.
"""
