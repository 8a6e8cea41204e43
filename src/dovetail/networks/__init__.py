"""Reference networks as plain torch modules, and the loading of a user's own."""

from dovetail.networks.load import LoadedModel, load_model
from dovetail.networks.table import NETWORKS, Network

__all__ = ["NETWORKS", "LoadedModel", "Network", "load_model"]
