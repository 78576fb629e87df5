"""How a server is set up; fixed for its life."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams
from starr_engine.serve.keys import ApiKey

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")

_COUNTS: Final = ("max_body_bytes", "max_requests", "max_requests_per_key", "max_choices")
_SECONDS: Final = ("request_timeout_s", "body_timeout_s", "ping_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one server.

    Raises:
        ConfigError: If a value is out of range; names all of them at once.
    """

    served_model: str
    """The name of the model in the API."""

    defaults: SamplingParams | None = None
    """What a request that does not say otherwise asks for; None is what the checkpoint's files
    ask for, as ``AsyncLLM.default_sampling_params``."""

    api_keys: tuple[ApiKey, ...] = ()
    """Who may use the API and see the metrics; empty lets everybody who can connect."""

    allowed_hosts: tuple[str, ...] | None = LOOPBACK_HOSTS
    """Names in the ``Host`` header, without port, that are answered. A page of another site can
    reach a server on loopback through a name of its own that points here, and is refused by this.
    None answers all."""

    max_body_bytes: int = 1 << 20
    """Longest body of a request."""

    max_requests: int = 256
    """HTTP requests that generate at once; more are refused with 503."""

    max_requests_per_key: int = 64
    """Of these, how many may be of one API key; more are refused with 429."""

    max_choices: int = 16
    """Most choices of one HTTP request: prompts times ``n``, or times the gap lengths to try."""

    request_timeout_s: float = 600.0
    """Seconds until a request that still generates is ended."""

    body_timeout_s: float = 10.0
    """Seconds in which a body must have come."""

    ping_s: float = 15.0
    """A stream that has nothing to say for so many seconds sends a comment, so that no proxy takes
    it for dead."""

    log_text: bool = False
    """Whether prompts and outputs are in the log."""

    has_page: bool = True
    """Whether there is a page to try the model at ``/``."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be an integer >= 1, got {value!r}"
            for name in _COUNTS
            if not isinstance(value := getattr(self, name), int)
            or isinstance(value, bool)
            or value < 1
        ]
        problems += [
            f"{name} must be a finite number of seconds > 0, got {value!r}"
            for name in _SECONDS
            if not isinstance(value := getattr(self, name), int | float)
            or isinstance(value, bool)
            or not (math.isfinite(value) and value > 0)
        ]
        if not self.served_model:
            problems.append("served_model must be a name, got an empty text")
        if problems:
            raise ConfigError("; ".join(problems))
