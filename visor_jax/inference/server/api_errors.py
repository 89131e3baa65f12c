"""Errors in the form of OpenAI's interface, and which status means what.

400  the request is not of the interface's form, or asks for what is not done here
401  no API key, or another one      404  no such model or address
408  the body did not come in time   413  the body is too large
422  of the right form, but this network cannot answer it: an image that cannot be
     read, a prompt that is too long, a budget that it has not
429  as many requests as allowed are waiting or being answered: Retry-After
503  not warmed up yet, or shutting down      504  not answered in its time
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_MOST_PROBLEMS = 4


class ApiError(HTTPException):
    """An error that the client is told, with what to do.

    param: the field of the request that is wrong. code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """Returns the JSON of the error."""
        return error_body(self.status_code, self.detail, self.param, self.code)

    def response(self) -> JSONResponse:
        """Returns the answer that tells it."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Returns the JSON of an error."""
    other = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, other)
    said = {"message": message, "type": kind, "param": param, "code": code}
    return {"error": said}


def tell_errors(app: FastAPI) -> None:
    """Has the app tell all errors in this form."""
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_form)
    app.add_exception_handler(Exception, _of_bug)


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, HTTPException)
    message, status = str(error.detail), error.status_code
    if status == 404:
        message = f"There is nothing at {request.method} {request.url.path:.80}."
    elif status == 413:
        return too_large().response()
    return ApiError(status, message, headers=error.headers).response()


def too_large() -> ApiError:
    """Returns the error of a body that is larger than the server takes."""
    why = "The request is larger than this server takes: send fewer or smaller images."
    return ApiError(413, why, code="request_too_large")


async def _of_form(request: Request, error: Exception) -> JSONResponse:
    """Tells what is wrong with a body, by the names of its fields alone."""
    del request
    assert isinstance(error, RequestValidationError)
    problems, param = [], None
    for each in error.errors()[:_MOST_PROBLEMS]:
        parts = [part for part in each["loc"] if part != "body"]
        # Where JSON breaks off is the number of a character.
        place = "" if each["type"] == "json_invalid" else ".".join(map(str, parts))
        param = param or place or None
        why = str(each["msg"]).removeprefix("Value error, ")
        problems.append(f"{place or 'the body'}: {why}")
    message = "; ".join(dict.fromkeys(problems))
    return ApiError(400, f"Not a request: {message}.", param=param).response()


async def _of_bug(request: Request, error: Exception) -> JSONResponse:
    del request, error
    return ApiError(500, "The server failed; its log says why.").response()
