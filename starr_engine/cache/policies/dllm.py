"""dLLM-Cache: prompt and response are refreshed at two paces, and in between what moved most."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.base import CacheDefaults, CacheView, StepKind, StepPlan, approximate
from starr_engine.cache.refresh import positive
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class DLLMCache(CacheDefaults):
    """Compute the prompt every so many steps, the response more often, and a part of it always.

    Prompt is what stands in front of the first mask, response all rows behind it, whatever their
    block. Steps are counted over the request: step s computes the prompt if ``prompt_interval``
    divides s, and the response if ``response_interval`` does. At any other step the first layer
    computes the response, which takes in the tokens that have changed; every later layer computes
    the values of the response, and all else only for the rows whose values have turned most since
    the step before. The other rows keep their keys and add what attention and the feed-forward
    part had added to them before.

    Rows whose token has changed are not forced among the chosen; of equally similar rows the one
    in front is chosen. At least one row is.

    Differs from the authors' code: the prompt's rows do not pass through the first layer at steps
    that reuse them, which changes nothing, because nobody reads what it gives; and requests of a
    batch each count their own steps.

    Source:
        dLLM-Cache, arXiv 2506.06295. Its settings for LLaDA-Instruct are 50 and 7 on GSM8K; the
        authors tune both for each task, from 25 and 5 to 100 and 8, with a ratio of 0.25.

    Raises:
        RequestError: If a value is out of range.
    """

    prompt_interval: int = 50
    """Steps from one refresh of the prompt to the next."""

    response_interval: int = 7
    """Steps from one refresh of the response to the next."""

    ratio: float = 0.25
    """Share of the response's rows that are chosen at each step and layer in between."""

    def __post_init__(self) -> None:
        positive("prompt_interval", self.prompt_interval)
        positive("response_interval", self.response_interval)
        # A bool is an int, and a NaN fails every comparison.
        if not (
            isinstance(self.ratio, int | float)
            and not isinstance(self.ratio, bool)
            and 0 < self.ratio <= 1
        ):
            raise RequestError(f"ratio must be a number in (0, 1], got {self.ratio!r}")

    @property
    def resumable(self) -> bool:
        """The intervals do not heed blocks."""
        return False

    @property
    def keeps_features(self) -> bool:
        """Unless every step computes the whole response."""
        return self.response_interval > 1 and self.ratio < 1

    def label(self, mask_block: int | None) -> str:
        """Exact only if every step computes everything."""
        del mask_block
        reuses = self.prompt_interval > 1 or self.keeps_features
        return approximate("temporal reuse") if reuses else approximate()

    def refusal(self, mask_block: int | None) -> str:
        """Serves bidirectional models only."""
        if mask_block is None:
            return ""
        return (
            "it reuses what is approximate in bidirectional models, and this one is block-causal; "
            "use cache='block_causal', which is exact"
        )

    def plan(self, view: CacheView) -> StepPlan:
        """What is due, and the response in part if it is not."""
        everything = ((0, view.num_rows),)
        # The first response's logits may be those of the row in front of it.
        start = view.prompt_len - view.logits_shift
        response = ((start, view.num_rows),)
        length = view.num_rows - start
        prompt_due = view.num_steps % self.prompt_interval == 0
        response_due = view.num_steps % self.response_interval == 0
        chosen = length if response_due else max(1, int(self.ratio * length))
        query = everything if prompt_due else response
        return StepPlan(
            kind=StepKind.REFRESH if prompt_due or response_due else StepKind.BLOCK,
            query=query,
            write=query,
            read=everything,
            partial=response if chosen < length else (),
            num_chosen=chosen if chosen < length else 0,
        )
