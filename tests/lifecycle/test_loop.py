"""What becomes of exceptions that no task handles."""

import asyncio

from structlog.testing import capture_logs

from service import loop


async def test_loss_of_a_tls_connection_is_no_error_of_the_relay() -> None:
    """A peer may reset a TLS connection just before uvloop writes to it; other errors keep their traceback."""
    running = asyncio.get_running_loop()
    lost = RuntimeError(
        "unable to perform operation on <TCPTransport closed=True reading=False 0x1>; the handler is closed"
    )
    loop.log_unhandled_exceptions()
    try:
        with capture_logs() as lines:
            for exc in (lost, RuntimeError("a bug"), ConnectionResetError()):
                running.call_exception_handler({"message": "Fatal error on SSL protocol", "exception": exc})
    finally:
        running.set_exception_handler(None)

    assert [("RuntimeError", True), ("ConnectionResetError", False)] == [
        (line["exc_type"], line["exc_info"] is not None) for line in lines
    ]
