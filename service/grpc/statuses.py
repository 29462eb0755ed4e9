"""How gRPC says what went wrong: a status code, the sentence, and its type as metadata."""

from __future__ import annotations

import grpc

from service.engine.failures import Failure
from service.http.problems import headers_of, problem_of

#: By the status that HTTP has for it. Whatever is too large is wrong with the request, and comes to
#: nothing however often it is sent: only load that is shed is RESOURCE_EXHAUSTED.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: The stable type of the problem, as the document of an HTTP answer has it.
TYPE = "problem-type"
#: What clients that retry by themselves go by, in milliseconds.
PUSHBACK = "grpc-retry-pushback-ms"


def code_of(failure: Failure) -> grpc.StatusCode:
    """What a call that fails so ends with."""
    return CODES[problem_of(failure).status]


def metadata_of(failure: Failure) -> list[tuple[str, str]]:
    """What is said behind the status: type, and when to come back where that is known."""
    told = [(TYPE, problem_of(failure).type)]
    if (seconds := headers_of(failure).get("Retry-After")) is not None:
        told += [("retry-after", seconds), (PUSHBACK, f"{seconds}000")]
    return told
