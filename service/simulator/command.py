"""``simulate``: the simulator as a program of its own."""

import argparse
import asyncio
import ipaddress
import signal
import sys

from service.simulator.options import CURRENT_MODELS, SimulatorOptions
from service.simulator.scenarios import Scenario
from service.simulator.server import Simulator

_STOPPED_BY = (signal.SIGINT, signal.SIGTERM)
_USAGE_ERROR = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``simulate``."""
    default = SimulatorOptions()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; only loopback without --anywhere")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes any that is free")
    parser.add_argument("--anywhere", action="store_true", help="allow an address that others can reach")
    parser.add_argument(
        "--scenario",
        metavar="NAME",
        choices=[scenario.value for scenario in Scenario],
        help="how to misbehave, for keys that name no scenario of their own (sk-sim-<name>), and for requests without "
        "?simulate=<name>; one of the list below",
    )
    parser.add_argument("--session-seconds", type=float, default=default.session_seconds, help="cap of a session")
    parser.add_argument(
        "--ping-interval-seconds", type=float, default=default.ping_interval_seconds, help="time between pings"
    )
    parser.add_argument(
        "--pace", type=float, default=default.pace, help="how many times faster than it plays audio is sent; 0: at once"
    )
    parser.add_argument("--model", action="append", default=[], help="a model to know besides the current ones")
    parser.add_argument("--call-id", action="append", default=[], help="a call that a sideband can join")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(len(scenario.value) for scenario in Scenario)
    parser.epilog = "scenarios:\n" + "\n".join(f"  {known.value:<{width}}  {known.says}" for known in Scenario)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    if not args.anywhere and not _is_loopback(args.host):
        sys.stderr.write(f"simulate: {args.host} can be reached by others; add --anywhere if that is meant\n")
        return _USAGE_ERROR
    try:
        options = SimulatorOptions(
            scenario=args.scenario,
            session_seconds=args.session_seconds,
            ping_interval_seconds=args.ping_interval_seconds,
            pace=args.pace,
            models=CURRENT_MODELS | frozenset(args.model),
            call_ids=frozenset(args.call_id),
        )
        asyncio.run(_serve(options, args.host, args.port))
    except (OSError, OverflowError, ValueError) as fault:
        sys.stderr.write(f"simulate: {fault}\n")
        return _USAGE_ERROR
    return 0


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOPPED_BY:
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(options)
    await simulator.start(host, port)
    try:
        sys.stdout.write(f"The simulator stands in for the provider at {simulator.url}\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await simulator.stop()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
