"""Circuit breaker and retry budget: which dials are not worth making.

What one client meets refuses that client only. Rules of this file:

* A failure is remembered in three circuits: of the client on this route and model, of the route and model,
  and of the provider. The second opens when two clients met the same reason there. The third opens when two clients met it on
  two routes or models; for a rejected key and for a failure before the request was sent, two clients are enough. The health
  monitor counts as a client, so no client alone can have others refused.
* Where a client has users, each has a circuit of its own, and that of the client opens when two users met the same reason:
  the provider may refuse one user by its name.
* A definite failure (key, credit, certificate) opens a circuit at once, as pgbouncer's `server_login_retry` does. For
  `DEFINITE_OPEN_SECONDS` clients get the cause within a millisecond, and the provider does not get the bad key again.
* A temporary failure opens it after `FAILURES_TO_OPEN` dials without a success between them, and for a shorter time.
* The trial of the provider's circuit is the monitor's dial, which `on_trial_due` requests; if it does not end within
  `MONITOR_TRIAL_SECONDS`, a client's dial is the trial. The trial of the other circuits is the next client's dial.
* Calls that have lost their upstream wait for seconds only. One of their dials is the trial of a temporary failure every
  `RECOVERY_TRIAL_SECONDS`, in each circuit; a Retry-After holds for them, too.
* A failure that affects one request only, such as an unknown model, proves that the provider answers. It closes the circuits.
* A refusal of a query or path counts neither way, and neither does a mistake of the client during a GPT-Live start.

Memory is bounded by `MAX_ENDPOINTS` and `MAX_CLIENTS`; what failed longest ago is forgotten. Nothing here waits or reads a
clock of its own.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from service.failures import DIAL_FAILURES, Failure, Phase
from service.upstream.circuit import DEFINITE_OPEN_SECONDS, Circuit, Witness

MAX_ENDPOINTS: Final = 64
"""Pairs of route and model whose failures are remembered."""
MAX_CLIENTS: Final = 256
"""Routes and models of clients, and of users, whose failures are remembered."""
_ALL_USERS: Final = "\0all users"
MONITOR_TRIAL_SECONDS: Final = 10.0
MONITOR: Final = "\0health monitor"
"""The monitor's name among the clients; no setting can contain NUL."""

_REQUEST_SPECIFIC: Final = frozenset({
    "model_not_found", "call_not_found", "client_left"
})  # fmt: skip
_UNCOUNTED: Final = frozenset({"request_rejected", "wrong_base_url"})


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Permission for one dial of `witness`. `trials` are the circuits that its outcome closes or opens again."""

    witness: Witness
    trials: tuple[Circuit, ...]
    target: int  # the count of key changes when the dial began
    generation: int  # the count of successes when the dial began

    @property
    def is_trial(self) -> bool:
        """Whether other dials wait for the outcome."""
        return bool(self.trials)


class CircuitBreaker:
    """Refuses dials while the provider is known to refuse them or to fail.

    `permit` lets a dial pass or raises the failure that opened a circuit, with phase `breaker` and the seconds until the next
    trial. The holder of a permit reports the outcome with `succeeded` or `failed`. If a trial ends without a report, because
    its client disconnected, the next dial is the trial.

    `clock` returns seconds, like the event loop's time. `on_trial_due`, if set, is called with the time at which the monitor
    should dial, once each time that the provider's circuit opens and refuses a client.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.on_trial_due: Callable[[float], object] | None = None
        self._provider = Circuit(clock, _concerns_provider)
        self._endpoints: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._clients: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._users: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._trial_requested_for = 0.0  # the end of the open time for which the monitor was asked
        self._target = 0
        self._generation = 0
        self._monitor_reason: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether any client is refused at present."""
        return self.refuses_all or any(
            circuit.refuses
            for circuits in (self._endpoints, self._clients, self._users)
            for circuit in circuits.values()
        )

    @property
    def refuses_all(self) -> bool:
        """Whether the provider's circuit is open or half-open."""
        return self._provider.is_open

    @contextmanager
    def permit(self, witness: Witness, *, is_recovery: bool = False) -> Iterator[BreakerPermit]:
        """Permit one dial, for the time of the `with` block; raises Failure with phase `breaker` if a circuit is open."""
        trials: list[Circuit] = []
        try:
            for circuit in self._circuits_of(witness):
                if circuit is self._provider and not is_recovery:
                    self._leave_the_trial_to_the_monitor()
                if circuit.admit(is_recovery=is_recovery):
                    trials.append(circuit)
            yield BreakerPermit(witness, tuple(trials), self._target, self._generation)
        finally:
            for circuit in trials:
                circuit.trial_is_running = False

    def is_provoked(self, failure: Failure, witness: Witness) -> bool:
        """Whether a refusal from memory is due to the client's own definite refusal, which the monitor did not meet."""
        own = (self._users if witness.user else self._clients).get(witness)
        return (
            failure.phase is Phase.BREAKER
            and failure.row.is_definite
            and own is not None
            and own.refuses
            and failure.reason != self._monitor_reason
        )

    def reset(self) -> None:
        """Forget everything: the key has changed. Outcomes of dials from before it do not count."""
        self._target += 1
        self._generation += 1
        self._monitor_reason = None
        self._provider.close()
        for circuits in (self._endpoints, self._clients, self._users):
            circuits.clear()

    def succeeded(self, witness: Witness, *, proves_key: bool = True) -> None:
        """Close the circuits of a dial that succeeded; the provider's only if it received its first event."""
        self._endpoints.pop(witness.endpoint, None)
        self._clients.pop(_of_client(witness), None)
        self._users.pop(witness, None)
        if proves_key:
            self._provider.close()
            self._generation += 1
        if witness.client == MONITOR:
            self._monitor_reason = None

    def failed(self, failure: Failure, permit: BreakerPermit) -> None:
        """Count a client's failed dial, unless it began before the last change of the key.

        For the provider's circuit one that began before the last success does not count; for none one that began before
        another dial opened it.
        """
        if permit.target != self._target or self._is_uncounted(failure, permit.witness):
            return
        witness, is_definite = permit.witness, failure.row.is_definite and not _may_be_request_specific(failure)
        is_shared = _concerns_client if witness.user else None
        circuits = [
            self._remember(self._clients, _of_client(witness), MAX_CLIENTS, is_shared),
            self._remember(self._endpoints, witness.endpoint, MAX_ENDPOINTS, _concerns_endpoint),
        ]
        if witness.user:
            circuits.append(self._remember(self._users, witness, MAX_CLIENTS, None))
        if permit.generation == self._generation:
            circuits.append(self._provider)
        for circuit in circuits:
            if not circuit.is_open or circuit in permit.trials:
                circuit.failed(failure, witness, is_definite=is_definite)

    def monitor_failed(self, failure: Failure, witness: Witness) -> None:
        """Count the monitor's failed dial. As the trial it opens the provider's circuit again; another reason closes it."""
        if self._is_uncounted(failure, witness):
            return
        self._monitor_reason = failure.reason
        is_definite = failure.row.is_definite and not _may_be_request_specific(failure)
        provider = self._provider
        if provider.failure is not None and not provider.refuses:
            if provider.failure.reason != failure.reason:
                provider.close()
            elif is_definite:
                provider.open(failure, DEFINITE_OPEN_SECONDS)
            else:
                provider.open_for_a_step(failure)
            return
        endpoint = self._remember(self._endpoints, witness.endpoint, MAX_ENDPOINTS, _concerns_endpoint)
        for circuit in (endpoint, provider):
            if not circuit.is_open:
                circuit.failed(failure, witness, is_definite=is_definite)

    def _circuits_of(self, witness: Witness) -> list[Circuit]:
        known = (
            self._users.get(witness),
            self._clients.get(_of_client(witness)),
            self._endpoints.get(witness.endpoint),
            self._provider,
        )
        return [circuit for circuit in known if circuit is not None]

    def _leave_the_trial_to_the_monitor(self) -> None:
        circuit = self._provider
        if not circuit.is_open or self.on_trial_due is None:
            return
        if self._trial_requested_for != circuit.open_until:
            self._trial_requested_for = circuit.open_until
            self.on_trial_due(circuit.open_until)
        if self._clock() < circuit.open_until + MONITOR_TRIAL_SECONDS:
            raise circuit.refusal()

    def _is_uncounted(self, failure: Failure, witness: Witness) -> bool:
        if failure.reason in _REQUEST_SPECIFIC:
            if failure.reason != "client_left":
                self.succeeded(witness)
            return True
        return failure.reason in _UNCOUNTED or failure.reason not in DIAL_FAILURES

    def _remember(
        self,
        circuits: OrderedDict[Hashable, Circuit],
        key: Hashable,
        maximum: int,
        is_shared: Callable[[Failure, Witness, Witness], bool] | None,
    ) -> Circuit:
        circuit = circuits.get(key)
        if circuit is None:
            circuit = circuits[key] = Circuit(self._clock, is_shared)
            if len(circuits) > maximum:
                circuits.popitem(last=False)
        circuits.move_to_end(key)
        return circuit


def _of_client(witness: Witness) -> Witness:
    """What a client, or all its users, have in common."""
    return witness._replace(user=_ALL_USERS) if witness.user else witness


def _concerns_client(_: Failure, first: Witness, second: Witness) -> bool:
    return first.user != second.user


def _concerns_endpoint(_: Failure, first: Witness, second: Witness) -> bool:
    return first.client != second.client


def _concerns_provider(failure: Failure, first: Witness, second: Witness) -> bool:
    return first.client != second.client and (
        first.endpoint != second.endpoint
        or failure.reason == "key_rejected"
        or failure.phase in {Phase.DNS, Phase.CONNECT}
    )


def _may_be_request_specific(failure: Failure) -> bool:
    """Whether a refusal may concern one client's request; only a series of them affects all.

    A 403 may be the answer of a server before the API to its query. `forbidden` after `session.start` may concern its voice.
    """
    if failure.phase is Phase.SESSION_START:
        return failure.reason == "key_forbidden"
    if failure.phase not in {Phase.UPGRADE, Phase.FIRST_EVENT}:
        return False
    if failure.reason == "blocked_before_api":
        return True
    return failure.reason == "key_forbidden" and failure.phase is Phase.UPGRADE and failure.upstream_code is None


class RetryBudget:
    """A token bucket that limits retries to a tenth of all dials: in an outage retries would add to the provider's load.

    It starts with one token, so that the first failure on an idle relay is retried.
    """

    RATIO: Final = 0.1
    MAX_TOKENS: Final = 10.0

    def __init__(self) -> None:
        self._tokens = 1.0

    def record_dial(self) -> None:
        """Count a dial that is not a retry."""
        self._tokens = min(self._tokens + self.RATIO, self.MAX_TOKENS)

    def try_acquire(self) -> bool:
        """Take a token for a retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
