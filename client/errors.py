"""What a call may end with instead of an answer. Files that cannot be read end with OSError."""

from __future__ import annotations

#: Asking again may help, since what was asked for changes nothing at the server.
PASSING = {429, 502, 503}
#: Something before the service answered, such as a proxy that lost it on the way.
FOREIGN = "about:blank"
#: But for a 503 until an operator does something, and a 429 until a job expires.
LASTING = {"/problems/bundle-refused", "/problems/too-many-jobs"}


class ClientError(Exception):
    """A call without an answer that can be used."""


class Problem(ClientError):
    """The server says no (RFC 9457).

    Attributes:
        status: of HTTP.
        type: stable, like ``/problems/broken-media``; ``about:blank`` where something else than the
            service answered, such as a proxy.
        title: a short sentence, the same every time.
        detail: what was expected and what came, this time.
        id: of the request, as in the server's log.
        retry_after: seconds after which the server wants to be asked again; None if it did not say.
    """

    def __init__(
        self,
        *,
        status: int,
        type: str = FOREIGN,
        title: str = "",
        detail: str = "",
        id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {type}: {detail or title}")
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.id = id
        self.retry_after = retry_after


class NoAnswer(ClientError):
    """Nobody answered: no connection, a connection that broke, or the deadline passed."""


class BadAnswer(ClientError):
    """What came is not the answer of a server that this client knows; the message says where."""


class UnknownModality(ClientError):
    """The name of a file does not say whether it is an image, a clip or a scan."""


def is_passing(error: Problem | NoAnswer) -> bool:
    """Whether asking again may help."""
    if isinstance(error, NoAnswer):
        return True
    if error.status == 500:  # the service's own says that it made a mistake, and would again
        return error.type == FOREIGN
    return error.status in PASSING and error.type not in LASTING
