"""How probable tokens were at the step that unmasked them."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.decoding.transfer import download
from starr_engine.outputs import TokenLogprob


def token_logprobs(
    logits: Tensor, token_ids: Tensor, *, num_top: int, step: int, mask_token_id: int
) -> tuple[TokenLogprob, ...]:
    """Log-probabilities under softmax in float64, the mask token left out.

    Args:
        logits: [u, V] of the unmasked positions, any float dtype.
        token_ids: [u] int64: what was put there.
        num_top: Alternatives to name; fewer are, where fewer are allowed.
        step: The forward, counted from 1.
        mask_token_id: From the checkpoint.
    """
    if not len(token_ids):
        return ()
    rows = logits.to(torch.float64, copy=True)
    rows[:, mask_token_id] = -torch.inf
    rows = rows.log_softmax(-1)
    own = rows.gather(1, token_ids[:, None])[:, 0]
    best = rows.topk(min(num_top, rows.shape[1]), dim=-1)
    found = download(
        {"token_ids": token_ids, "own": own, "ids": best.indices, "values": best.values}
    )()
    return tuple(
        TokenLogprob(
            token_id=token,
            logprob=logprob,
            step=step,
            top=tuple(
                (alternative, value)
                for alternative, value in zip(ids, values, strict=True)
                if value > -torch.inf
            ),
        )
        for token, logprob, ids, values in zip(
            *(found[name].tolist() for name in ("token_ids", "own", "ids", "values")), strict=True
        )
    )
