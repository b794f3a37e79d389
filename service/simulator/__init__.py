"""A local Realtime API: the built-in upstream of a relay without a key, and the tests' peer. Imports only `realtime`."""

from service.simulator.server import ConnectionRecord, Simulator, SimulatorOptions

__all__ = ["ConnectionRecord", "Simulator", "SimulatorOptions"]
