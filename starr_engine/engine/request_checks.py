"""Whether an engine can ever run a request; what it refuses, it refuses when the request comes."""

from __future__ import annotations

from starr_engine.cache.base import EXACT, CachePolicy
from starr_engine.config import ResolvedConfig
from starr_engine.decoding.base import RemaskingPolicy
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.rank_limits import refusal_of_ranks
from starr_engine.engine.token_ids import check_vocabulary
from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.params import SamplingParams


def check_request(
    ids: list[int],
    template: list[int] | None,
    params: SamplingParams,
    remasking: RemaskingPolicy,
    cache: CachePolicy,
    *,
    spec: ModelSpec,
    config: ResolvedConfig,
    keeper: PageKeeper,
    has_tokenizer: bool,
) -> None:
    """Refuse what can never run.

    Args:
        ids: Of the prompt.
        template: What stands behind it; None stands for ``max_tokens`` masks.
        params: Resolved against the model.
        remasking: Built from them.
        cache: Built from them.
        spec: Of the model.
        config: Of the engine.
        keeper: Of its pages.
        has_tokenizer: Whether texts can be made.

    Raises:
        RequestError: Says why, and what to change.
    """
    if params.n > 1:
        raise RequestError(
            f"a request of the engine is one sample, and n={params.n}; add one request for "
            "each of starr_engine.samples.split_samples(params), or use LLM"
        )
    check_vocabulary(spec, "prompt", ids)
    if not ids and set(template or ()) <= {spec.mask_token_id}:
        raise RequestError("the prompt is empty; give at least one token")
    _check_shift(ids, template, params, remasking, spec)
    length = len(ids) + (params.max_tokens if template is None else len(template))
    limit = config.max_model_len or spec.max_model_len
    if length > limit:
        asked, remedy = f"max_tokens={params.max_tokens}", "lower max_tokens"
        if template is not None:
            asked, remedy = f"template of {len(template)}", "the template"
        raise RequestError(
            f"prompt of {len(ids)} tokens and {asked} make {length}, "
            f"the model allows {limit}; shorten the prompt or {remedy}"
        )
    assert params.block_length is not None
    shadow = params.block_length if remasking.needs_shadow else 0
    if length + shadow > config.max_num_batched_tokens:
        extra = f" and {shadow} shadow rows" if shadow else ""
        raise RequestError(
            f"a canvas of {length} rows{extra} does not fit into one step of "
            f"max_num_batched_tokens={config.max_num_batched_tokens}; raise it"
        )
    ranks = config.tensor_parallel_size
    if refusal := cache.refusal(spec.mask_block) or refusal_of_ranks(cache, ranks):
        raise RequestError(f"cache={params.cache!r}: {refusal}")
    label = cache.label(spec.mask_block)
    if spec.needs_exact_cache and label != EXACT:
        raise RequestError(
            f"cache={params.cache!r} is {label}, and this model needs an exact one: rows that "
            "are not decided hold other noise at every step, so that what was computed before "
            "is of another canvas; use cache='block_causal' or 'none'"
        )
    pages, available = keeper.num_pages_for(length), keeper.num_usable
    if cache.uses_pages and pages > available:
        raise RequestError(
            f"the request needs {pages} pages of {config.page_size} rows, the pool has "
            f"{available}; raise num_pages or kv_memory, or use cache='none'"
        )
    if params.stop and not has_tokenizer:
        raise RequestError("stop strings need a tokenizer, and this model folder has none")


def _check_shift(
    ids: list[int],
    template: list[int] | None,
    params: SamplingParams,
    remasking: RemaskingPolicy,
    spec: ModelSpec,
) -> None:
    """What a model cannot do that predicts a token from the row in front of it."""
    if not (spec.logits_shift or spec.seeds_block):
        return
    if remasking.needs_shadow:
        raise RequestError(
            f"remasking={params.remasking!r} checks a token by a second row in its place, and "
            "this model predicts a token from the row in front of it; choose another policy"
        )
    if not ids and (template or [spec.mask_token_id])[0] == spec.mask_token_id:
        raise RequestError(
            "this model predicts a token from the row in front of it, so that nothing can be "
            "generated at the very beginning; put at least one token there"
        )
