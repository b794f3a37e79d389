"""The alerts on how an instance is operated (see `alerts`): its files, its store, its log, its drain."""

from typing import Final

from monitoring.conditions import FAILED_REQUESTS, FAILED_SESSIONS_AND_TASKS
from monitoring.promql import DEPLOYMENT, INSTANCE, increase, metric
from monitoring.rule import Alert

OPERATION: Final = "operation"

OPERATION_ALERTS: Final = (
    Alert(
        name="RelayKeyRotationRefused",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("key_file_refused")})',
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="<instance> cannot use the new key in its key file.",
        description=(
            "<instance> refused the key in the file that OPENAI_API_KEY_FILE names, or cannot read the file, and continues "
            "with the previous key. Put a working key into the file. Until then do not restart the instance, because it "
            "would start without that key. The log event key.rotation_refused or key.file_unreadable states the reason."
        ),
        rationale=(
            "immediate: the operator who just rotated the key can still correct it; the alert ends when the file holds "
            "a working key"
        ),
    ),
    Alert(
        name="RelayClientsFileRefused",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("clients_file_refused")})',
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="<instance> cannot use its clients file.",
        description=(
            "The file that RELAY_CLIENTS_FILE names has mistakes or cannot be read, and <instance> continues with the last "
            "good one. Correct the file. Until then do not restart the instance, because it would not start. The log event "
            "clients.file_rejected or clients.file_unreadable names each mistake with its line and the remedy."
        ),
        rationale=(
            "immediate: the operator who just changed the file can still correct it, and withdrawn tokens are still accepted"
        ),
    ),
    Alert(
        name="RelayJwksFailing",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("jwks_failing")})',
        operator=">",
        threshold=0,
        for_duration="5m",
        summary="<instance> cannot fetch the keys of an identity provider.",
        description=(
            "<instance> of <job> has not fetched the JWKS of a table jwt.NAME in RELAY_CLIENTS_FILE for five minutes. The "
            "last keys stay in use; clients whose tokens need newer ones, and all of them after a restart, are refused "
            "with jwks_unavailable. The log event jwks.fetch_failed states why."
        ),
        rationale="five minutes: the last keys stay in use, and providers publish a new key days before they sign with it",
    ),
    Alert(
        name="RelayBudgetNearlyUsed",
        severity="warning",
        area=OPERATION,
        query=f'max by ({DEPLOYMENT}, client) ({metric("client_budget_used_ratio")})',
        operator=">",
        threshold=0.8,
        for_duration="0s",
        summary="A client has used most of a budget.",
        description=(
            "A client[, <client>,] has used <percent> of a budget of this day or month (UTC). Once it is used up, its "
            "sessions end with budget_exhausted, and new ones are refused. Raise the limit in RELAY_CLIENTS_FILE, or find "
            "out what the client does."
        ),
        rationale="immediate: what remains of a budget can last for minutes",
    ),
    Alert(
        name="RelayStoreFailing",
        severity="warning",
        area=OPERATION,
        query=f'min by ({INSTANCE}) ({metric("store_up")})',
        operator="<",
        threshold=1,
        for_duration="1m",
        summary="<instance> does not reach the store of RELAY_STORE_URL.",
        description=(
            "The store has failed for <instance> of <job> for a minute. With RELAY_STORE_FAILURE=open, limits hold for each "
            "instance alone and budgets count later; with closed, new sessions are refused. Run 'python -m service doctor' "
            "where the relay runs: its step store names the cause."
        ),
        rationale="one minute: longer than a restart of the server or a failover takes; refused sessions page by themselves",
    ),
    Alert(
        name="RelayInternalErrors",
        severity="warning",
        area=OPERATION,
        query=f"({FAILED_SESSIONS_AND_TASKS} > 0) or ({FAILED_REQUESTS} > 0)",
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="<job> hit an internal error.",
        description=(
            "<number> sessions, requests or background tasks of <job> failed in the last 15 minutes because of an "
            "error in the relay itself. Report the tracebacks of the log events session.failed, request.failed and "
            "task.crashed."
        ),
        rationale="any: each is a bug, but it ends one session, or the task is restarted, so it does not page",
    ),
    Alert(
        name="RelayLogLinesDropped",
        severity="warning",
        area=OPERATION,
        query=increase("log_lines_dropped_total", "15m", by=INSTANCE),
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="<instance> drops log lines.",
        description=(
            "<instance> dropped <number> log lines in the last 15 minutes because the reader of its log is too slow. "
            "Sessions are not affected. Check the log collector and its disk, and set RELAY_LOG_LEVEL=info."
        ),
        rationale="any: the relay queues ten thousand lines before it drops the first",
    ),
    Alert(
        name="RelayDrainHangs",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("draining")})',
        operator=">",
        threshold=0,
        for_duration="15m",
        summary="<instance> has been draining for more than 15 minutes.",
        description=(
            "<instance> of <job> refuses new sessions and has not exited for 15 minutes. Send the process a second "
            "SIGTERM to close its remaining sessions."
        ),
        rationale=(
            "15 minutes: the Kubernetes manifest allows 10; a longer RELAY_DRAIN_SECONDS needs a longer duration here"
        ),
    ),
)  # fmt: skip
