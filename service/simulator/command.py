"""The command ``simulate``: run the simulator as a separate process."""

import argparse
import asyncio
import signal
import sys

from service.realtime.names import is_loopback
from service.simulator.live.options import LIVE_MODELS, LiveOptions
from service.simulator.options import CURRENT_MODELS, SimulatorOptions
from service.simulator.scenarios import Scenario
from service.simulator.server import Simulator

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_USAGE_ERROR = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``simulate``."""
    default = SimulatorOptions()
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; a non-loopback address requires --anywhere"
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 selects a free port")
    parser.add_argument(
        "--anywhere", action="store_true", help="allow a non-loopback address, which other hosts can reach"
    )
    parser.add_argument(
        "--scenario",
        metavar="NAME",
        choices=[scenario.value for scenario in Scenario],
        help="behaviour for requests that select none with the key sk-sim-<name> or the query ?simulate=<name>; "
        "listed below; a key with another name works",
    )
    parser.add_argument(
        "--session-seconds", type=float, default=default.session_seconds, help="maximum duration of a session"
    )
    parser.add_argument(
        "--ping-interval-seconds", type=float, default=default.ping_interval_seconds, help="time between pings"
    )
    parser.add_argument(
        "--pace", type=float, default=default.pace, help="speed of sent audio relative to real time; 0: no pacing"
    )
    parser.add_argument("--model", action="append", default=[], help="an additional model to accept; repeatable")
    parser.add_argument(
        "--call-id", action="append", default=[], help="a call that accepts sideband connections; repeatable"
    )
    parser.add_argument(
        "--live-model", action="append", default=[], help="an additional model of GPT-Live to accept; repeatable"
    )
    parser.add_argument(
        "--live-session-seconds",
        type=float,
        default=default.live.session_seconds,
        help="maximum duration of a session of GPT-Live",
    )
    parser.add_argument(
        "--live-no-audio-seconds",
        type=float,
        default=default.live.no_audio_seconds,
        help="time after which a session of GPT-Live that receives no audio expires",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="serve /simulator/dials, /simulator/drop and /simulator/records to programs on this machine",
    )
    parser.add_argument("--keep-conversations", action="store_true", help="record what is said, for /simulator/records")
    parser.add_argument(
        "--numbered-answers", action="store_true", help="answer with numbered samples instead of the user's audio"
    )
    _describe_scenarios(parser)


def _describe_scenarios(parser: argparse.ArgumentParser) -> None:
    """List the scenarios below the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(len(scenario.value) for scenario in Scenario)
    parser.epilog = "scenarios:\n" + "\n".join(
        f"  {scenario.value:<{width}}  {scenario.description}"
        + (f"\n  {'':<{width}}  GPT-Live: {scenario.on_live}" if scenario.on_live else "")
        for scenario in Scenario
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code."""
    if not args.anywhere and not is_loopback(args.host):
        sys.stderr.write(
            f"simulate: --host {args.host} is not a loopback address. Add --anywhere to let other hosts connect.\n"
        )
        return _USAGE_ERROR
    try:
        options = SimulatorOptions(
            scenario=args.scenario,
            session_seconds=args.session_seconds,
            ping_interval_seconds=args.ping_interval_seconds,
            pace=args.pace,
            models=CURRENT_MODELS | frozenset(args.model),
            call_ids=frozenset(args.call_id),
            control=args.control,
            keep_conversations=args.keep_conversations,
            numbered_answers=args.numbered_answers,
            live=LiveOptions(
                models=LIVE_MODELS | frozenset(args.live_model),
                session_seconds=args.live_session_seconds,
                no_audio_seconds=args.live_no_audio_seconds,
            ),
        )
        asyncio.run(_serve(options, args.host, args.port))
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"simulate: {error}\n")
        return _USAGE_ERROR
    return 0


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(options)
    await simulator.start(host, port)
    try:
        sys.stdout.write(f"The simulator listens on {simulator.url}\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await simulator.stop()
