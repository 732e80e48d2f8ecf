"""The exceptions of the project; each class says what the runner does with it.

StockIngestionError
├── ConfigurationError             stop before any work; exit status 2
├── ValidationError                leave out the record; if none is valid, stop
├── DAGExecutionError              a step of a DAG failed; `__cause__` tells why
├── AuthenticationError            stop; somebody has to log in again; exit status 3
├── APIError                       stop
│   ├── PermissionDeniedError      no login helps
│   ├── RefusedRequestError        leave out what was asked for
│   └── TransientAPIError          try again (also a TransientError)
│       └── TooManyRequestsError   ask less often
├── NotListedError                 what was asked for is not in the list; exit status 1
├── DatabaseError                  stop, the transaction is rolled back
│   └── TransientDatabaseError     try again (also a TransientError)
└── TransientError                 what may pass by itself: the retry policy retries only this
"""


class StockIngestionError(Exception):
    """Base of every error that this project raises on purpose; its text is fit for a user."""


class ConfigurationError(StockIngestionError):
    """A setting is missing or wrong; the text names every fault, its place and the way out."""


class ValidationError(StockIngestionError):
    """A record, or a whole dump, breaks a rule of the data."""


class DAGExecutionError(StockIngestionError):
    """A DAG failed; the error that made it fail is its `__cause__`."""


class AuthenticationError(StockIngestionError):
    """The Kite session is dead or was refused: a new login is needed, a retry is of no use."""


class TransientError(StockIngestionError):
    """A fault that may pass by itself.

    `retry_after_seconds` is how long the other side asked to wait, or None if it did not say.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class APIError(StockIngestionError):
    """Kite Connect refused the request, or gave an answer that is of no use."""


class PermissionDeniedError(APIError):
    """Kite Connect does not let the app do that, whatever the session."""


class RefusedRequestError(APIError):
    """Kite Connect finds fault with what was asked for: another request may be answered."""


class TransientAPIError(TransientError, APIError):
    """Kite Connect is overloaded, down, out of reach, or its answer was cut short."""


class TooManyRequestsError(TransientAPIError):
    """The source asks for fewer requests (HTTP 429): everybody who asks it has to wait."""


class NotListedError(StockIngestionError):
    """What a look-up asked for is not in the list, or there is no such list."""


class DatabaseError(StockIngestionError):
    """PostgreSQL refused; the text keeps what the database itself said."""


class TransientDatabaseError(TransientError, DatabaseError):
    """The connection failed or was lost, or the transaction lost against another one."""


def cause_of(error: BaseException) -> BaseException:
    """What went wrong: of a DAGExecutionError the error that made the DAG fail, if it has one."""
    cause = error.__cause__ if isinstance(error, DAGExecutionError) else None
    return cause or error
