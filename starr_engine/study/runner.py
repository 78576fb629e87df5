"""Many requests with different policies through one engine, its batch always full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError, RequestError
from starr_engine.outputs import BlockOutput, RequestOutput
from starr_engine.params import SamplingParams

K = TypeVar("K")


class StudyEngine(Protocol):
    """The part of the engine that a study uses."""

    @property
    def config(self) -> EngineConfig:
        """Its settings."""

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
    ) -> str:
        """Take a request, or raise RequestError and stay as it was."""

    def step(self) -> Sequence[BlockOutput | RequestOutput]:
        """One denoising step of all scheduled requests."""

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drop a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[K]):
    """One request of a study."""

    key: K
    """What the study knows it by."""

    prompt_token_ids: tuple[int, ...]
    params: SamplingParams


def run_work(
    engine: StudyEngine,
    work: Iterable[Work[K]],
    on_output: Callable[[K, RequestOutput], None],
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    at_once: int | None = None,
) -> bool:
    """Run all requests; outputs come in the order in which they finish.

    Args:
        engine: With no unfinished requests.
        work: Taken as places become free.
        on_output: Takes every output.
        is_stopped: Asked between steps; True drops what is unfinished.
        at_once: Most unfinished requests; None is twice the batch, so that there is never a gap.
            Where latency is measured the batch itself: a request then waits for no other.

    Returns:
        Whether everything ran.

    Raises:
        RequestError: If a request cannot run: a study with a hole would compare nothing. Its
            message names the policy and the prompt.
        CapacityError: If the engine runs out of memory.
    """
    waiting = iter(work)
    running: dict[str, Work[K]] = {}
    # One that ends is replaced in the next step.
    limit = at_once or 2 * engine.config.max_num_requests
    number = 0
    try:
        while not is_stopped():
            while len(running) < limit and (item := next(waiting, None)) is not None:
                try:
                    request_id = engine.add_request(
                        item.prompt_token_ids, item.params, request_id=f"study-{number}"
                    )
                except (RequestError, ConfigError) as error:
                    raise RequestError(f"{_name(item)}: {error}") from error
                running[request_id] = item
                number += 1
            if not running:
                return True
            for output in engine.step():
                if isinstance(output, RequestOutput):
                    item = running.pop(output.request_id)
                    if output.error is not None:
                        raise RequestError(f"{_name(item)}: {output.error}")
                    on_output(item.key, output)
        return False
    finally:
        for request_id in running:
            engine.abort(request_id)


def _name(work: Work[K]) -> str:
    args = ", ".join(f"{name}={value}" for name, value in work.params.remasking_args.items())
    return f"{work.params.remasking}({args}) on a prompt of {len(work.prompt_token_ids)} tokens"
