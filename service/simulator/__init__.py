"""A local Realtime and GPT-Live API: the upstream of a relay without a key, and the tests' peer. Imports only `realtime`."""

from service.simulator.behaviour import Behaviour, End, Fault, Moment
from service.simulator.scenarios import SCENARIO_NAMES
from service.simulator.server import ConnectionRecord, Simulator, SimulatorOptions

__all__ = ["SCENARIO_NAMES", "Behaviour", "ConnectionRecord", "End", "Fault", "Moment", "Simulator", "SimulatorOptions"]
