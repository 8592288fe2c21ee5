"""`fedmed-server health`: as `fedmed-edge health`."""

from fedmed_edge.commands.edge.health import command

__all__ = ["command"]
