"""Removing channels: which go together in a network, and taking them out of it."""

from dovetail.methods.channels.groups import Dependencies, Group, dependencies
from dovetail.methods.channels.removal import mask, remove

__all__ = ["Dependencies", "Group", "dependencies", "mask", "remove"]
