"""The service's error body, made from a code and a status in one place.

Shape and words follow the API's reference ("Error handling" of the Qiskit Runtime REST API): an `errors` list and a
`trace`. IAM answers in another shape; see `routes.accounts`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["SOLUTIONS", "Refusal", "answer_refusal", "refusal_response"]

MORE_INFO = "https://cloud.ibm.com/apidocs/quantum-computing#error-handling"

SOLUTIONS: dict[int, str] = {
    1012: "Wait until one of your jobs has finished.",
    1200: "Verify that you have access to this resource.",
    1202: "Reduce the rate of requests and try again.",
    1204: "Use at most 8 tags.",
    1205: "Use at most 86 characters in a tag.",
    1217: "Create another session, or submit the job without one.",
    1219: "Verify the access token and try again.",
    1234: "Wait until the job has finished.",
    1279: "Verify the CRN, and that the host is the one of its region.",
    1291: "Verify the job ID.",
    1305: "Raise max_execution_time, or submit less in one job.",
    1352: "Create an instance of a different plan type or use a different execution mode.",
    1517: "Transpile the circuits to the backend's instruction set.",
    1603: "Verify that the program is valid, and that its QPY version is one that the service reads.",
    3211: "Submit what this service can simulate.",
    4317: "Wait until the usage period is over, or use another instance.",
    6000: "Ask for fewer shots or circuits in one job.",
    9999: "Try again, or report it.",
}


class Refusal(Exception):
    """A request that the service answers with an error.

    Attributes:
        status: HTTP status.
        code: IBM's error code.
        message: What is wrong.
        headers: Further headers of the answer, such as Retry-After.
    """

    def __init__(self, status: int, code: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        super().__init__(f"{status}/{code}: {message}")


def refusal_response(status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the service's shape."""
    error: dict[str, object] = {"code": code, "message": message}
    if code in SOLUTIONS:
        error["solution"] = SOLUTIONS[code]
    error["more_info"] = MORE_INFO
    body = {"errors": [error], "trace": str(uuid.uuid4())}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


async def answer_refusal(request: Request, refused: Exception) -> Response:
    """Starlette's exception handler for `Refusal`."""
    assert isinstance(refused, Refusal)
    return refusal_response(refused.status, refused.code, refused.message, refused.headers)
