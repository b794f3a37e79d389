"""A faithful local upstream: the embedded default and the tests' peer. Knows only `realtime`."""

from service.simulator.server import ConnectionRecord, Simulator, SimulatorOptions

__all__ = ["ConnectionRecord", "Simulator", "SimulatorOptions"]
