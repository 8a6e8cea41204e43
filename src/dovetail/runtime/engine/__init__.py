"""The native engine: a network's layers planned, fused and run in one native call."""

from dovetail.runtime.engine.session import EngineSession, Memory, Operation

__all__ = ["EngineSession", "Memory", "Operation"]
