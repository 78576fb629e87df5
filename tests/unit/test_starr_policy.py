"""StarrPolicy as a whole: its variants, its identities, and the op against the reference in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine import ops_reference
from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.decoder import decide_rows
from starr_engine.decoding.guarantee import guarantee_progress
from starr_engine.decoding.noise import Noise, row_keys
from starr_engine.decoding.policies.low_confidence import LowConfidencePolicy
from starr_engine.decoding.policies.starr import StarrPolicy
from starr_engine.decoding.policies.starr_cosine import cosine_deviance
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.decoding.rows import DecodingRow, RowDecision
from starr_engine.decoding.scores import score_rows
from starr_engine.errors import RequestError

CPU = torch.device("cpu")
ROWS, LENGTH, VOCAB = 5, 12, 20
VARIANTS: list[dict[str, Any]] = [
    {},
    {"signal": "logit", "sigma": 1.0},
    {"deviance": "cosine", "top_k": 3},
    {"signal": "logit", "deviance": "cosine", "top_k": 50, "neighbour_window": 20},
    {"patience": 1, "relax": 0.2, "restart_on_flip": False, "revoke_below": 0.5},
]
every_variant = pytest.mark.parametrize("args", VARIANTS, ids=str)


def random_view(tokens: Tensor, generator: torch.Generator, *, scores_tokens: bool) -> BlockView:
    """A step over blocks whose ``tokens`` are -1 at masks; scores follow from random logits."""
    masked = tokens < 0
    scored = masked | torch.tensor(scores_tokens)
    logits = torch.randn(*tokens.shape, VOCAB, generator=generator) * 3
    logits[..., -1] = -torch.inf
    probabilities = logits.softmax(-1)
    candidates = torch.where(masked, probabilities.argmax(-1), tokens)
    at = candidates[..., None]
    confidence = torch.where(scored, probabilities.gather(2, at)[..., 0], 1.0)
    return BlockView(
        candidates=candidates,
        confidence=confidence,
        top1=confidence,
        top2=torch.zeros_like(confidence),
        entropy=torch.zeros_like(confidence),
        masked=masked,
        step=torch.zeros(len(tokens), dtype=torch.int64),
        num_left=torch.arange(len(tokens)) * 2,
        progress=torch.zeros(len(tokens)),
        seed=torch.zeros(len(tokens), dtype=torch.int64),
        logit=torch.where(scored, logits.gather(2, at)[..., 0], 0.0),
        logits=torch.where(scored[..., None], logits, 0.0),
    )


def play(policy: StarrPolicy, seed: int) -> list[tuple[BlockView, State, Decision, State]]:
    """Every step of some blocks until all of them are done, or 40 of them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((ROWS, LENGTH), -1)
    state = policy.init_state(ROWS, LENGTH, CPU)
    steps = []
    while (tokens < 0).any() and len(steps) < 40:
        view = random_view(tokens, generator, scores_tokens=policy.scores_unmasked)
        decision, after = policy.decide(view, state)
        steps.append((view, state, decision, after))
        full = guarantee_progress(view, decision)
        tokens = torch.where(full.unmask, view.candidates, tokens)
        if full.revoke is not None:
            tokens = torch.where(full.revoke, -1, tokens)
        state = after
    return steps


@every_variant
@pytest.mark.parametrize("seed", range(4))
def test_the_compiled_rule_decides_like_the_reference(args: dict[str, Any], seed: int) -> None:
    policy = StarrPolicy(**args)
    for view, state, decision, after in play(policy, seed):
        expected, expected_after = policy.decide_with(ops_reference.starr_decide, view, state)
        assert decision.signals is not None and expected.signals is not None
        near = (view.confidence - expected.signals["threshold"]).abs() < 1e-6
        assert torch.equal(decision.unmask | near, expected.unmask | near)
        assert (decision.revoke is None) == (policy.revoke_below is None)
        if decision.revoke is not None and expected.revoke is not None:
            assert torch.equal(decision.revoke, expected.revoke)
        for name, values in expected.signals.items():
            torch.testing.assert_close(decision.signals[name], values, rtol=1e-5, atol=1e-6)
        for name, values in expected_after.items():
            torch.testing.assert_close(after[name], values, rtol=1e-5, atol=1e-6)


@every_variant
def test_a_decision_shows_the_numbers_behind_it(args: dict[str, Any]) -> None:
    for view, _, decision, _ in play(StarrPolicy(**args), 0):
        assert decision.signals is not None
        assert set(decision.signals) == {"threshold", "variance", "deviance", "stability"}
        above = view.confidence >= decision.signals["threshold"]
        assert torch.equal(decision.unmask, view.masked & above)


@every_variant
@pytest.mark.parametrize("tau", [0.3, 0.6, 0.9])
def test_with_its_terms_at_zero_it_is_the_static_threshold(
    args: dict[str, Any], tau: float
) -> None:
    flat: dict[str, Any] = {"alpha": 0, "beta": 0, "gamma": 0, "c_slow": 0, "c_fast": tau}
    kept = {n: v for n, v in args.items() if n not in ("patience", "revoke_below")}
    policy = StarrPolicy(**kept, **flat, tau_min=tau, tau_max=tau)
    for view, _, decision, _ in play(policy, 1):
        static, _ = ThresholdPolicy(threshold=tau).decide(view, {})
        assert torch.equal(decision.unmask, static.unmask)


@every_variant
def test_with_thresholds_out_of_reach_it_is_one_token_per_step(args: dict[str, Any]) -> None:
    kept = {n: v for n, v in args.items() if n != "revoke_below"}
    policy = StarrPolicy(**kept, tau_min=2, tau_max=2, c_fast=2, c_slow=2)
    steps = play(policy, 2)
    assert len(steps) == LENGTH
    for view, _, decision, _ in steps:
        single, _ = LowConfidencePolicy().decide(view, {})
        assert torch.equal(guarantee_progress(view, decision).unmask, single.unmask)


def test_the_logit_signal_sees_a_logit_move_where_the_confidence_stands_still() -> None:
    # Two steps, confidence .8 at both, logit 3 then 5: std 1, and sigma 1 makes s = exp(-1).
    arguments: dict[str, Any] = {"temporal_window": 2, "sigma": 1.0}
    stability = {}
    for signal in ("confidence", "logit"):
        policy = StarrPolicy(signal=signal, **arguments)  # type: ignore[arg-type]
        state = policy.init_state(1, 1, CPU)
        for logit in (3.0, 5.0):
            view = _one_mask(confidence=0.8, logit=logit)
            decision, state = policy.decide(view, state)
        assert decision.signals is not None
        stability[signal] = decision.signals["stability"].item()
    assert stability["confidence"] == 1.0
    assert stability["logit"] == pytest.approx(np.exp(-1.0), rel=1e-6)


def test_what_a_variant_needs_of_the_view_is_named_if_it_is_not_there() -> None:
    view = _one_mask(confidence=0.8, logit=None)
    for policy, message in (
        (StarrPolicy(signal="logit"), "logits of its candidates"),
        (StarrPolicy(deviance="cosine"), "a view that has logits"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.decide(view, policy.init_state(1, 1, CPU))


def test_only_the_cosine_deviance_asks_for_the_logits() -> None:
    assert not StarrPolicy().needs_logits
    assert not StarrPolicy(signal="logit").needs_logits
    assert StarrPolicy(deviance="cosine").needs_logits


def test_cosine_deviance_by_hand() -> None:
    # Masks 0 and 1 have p = (.8, .2, 0) and (.2, .8, 0), token 2 stands at position 2.
    logits = torch.log(torch.tensor([[[0.8, 0.2, 1e-30], [0.2, 0.8, 1e-30], [1.0, 1.0, 1.0]]]))
    got = cosine_deviance(
        logits, torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]]),
        torch.tensor([0]), window=1, top_k=2,
    )  # fmt: skip
    norm = np.sqrt(0.8**2 + 0.2**2)
    # Position 0 sees 1 alone; position 1 sees (.8, .2, 1); position 2 shares nothing with 1.
    beside = np.sqrt(0.8**2 + 0.2**2 + 1)
    expected = [1 - 0.32 / norm**2, 1 - 0.32 / (norm * beside), 1.0]
    torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float32))
    # Cut to one entry, masks 0 and 1 have nothing in common. Alone in its window: 0.
    alone = cosine_deviance(
        logits[:, :1], torch.tensor([[0]]), torch.tensor([[True]]), torch.tensor([0]),
        window=3, top_k=1,
    )  # fmt: skip
    assert alone.tolist() == [[0.0]]


def test_cosine_deviance_is_that_of_dense_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-3, VOCAB - 1, (ROWS, LENGTH), generator=generator).clamp_min(-1)
    view = random_view(tokens, generator, scores_tokens=False)
    assert view.logits is not None
    for window, top_k in ((1, 4), (3, VOCAB), (LENGTH + 5, 7)):
        got = cosine_deviance(
            view.logits, view.candidates, view.masked, view.num_left, window=window, top_k=top_k
        )
        for row in range(ROWS):
            left = int(view.num_left[row])
            # One dimension for each token in front, which nothing else has.
            dense = np.zeros((left + LENGTH, VOCAB + left))
            dense[:left, VOCAB:] = np.eye(left)
            for i in range(LENGTH):
                if view.masked[row, i]:
                    ids = view.logits[row, i].topk(min(top_k, VOCAB)).indices
                    dense[left + i, ids] = view.logits[row, i, ids].softmax(0)
                else:
                    dense[left + i, view.candidates[row, i]] = 1
            for i in range(LENGTH):
                place = left + i
                near = [j for j in range(place - window, place + window + 1) if j != place]
                around = sum(dense[j] for j in near if 0 <= j < left + LENGTH)
                norms = np.linalg.norm(dense[place]) * np.linalg.norm(around)
                cosine = dense[place] @ around / norms
                assert got[row, i].item() == pytest.approx(1 - cosine, abs=2e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"signal": "logits"}, "signal must be one of confidence, logit, got 'logits'"),
        ({"deviance": None}, "deviance must be one of confidence, cosine, got None"),
        ({"top_k": 0}, "top_k must be an integer from 1 to 256"),
        ({"top_k": 1000}, "top_k must be an integer from 1 to 256"),
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        StarrPolicy(**args)


class _Spy(StatelessPolicy):
    """Keeps the views it is shown."""

    scores_unmasked = True

    def __init__(self) -> None:
        self.views: list[BlockView] = []

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        self.views.append(view)
        return Decision(unmask=view.masked), state


def test_the_view_has_the_models_logit_of_every_candidate_with_and_without_noise() -> None:
    torch.manual_seed(3)
    logits = torch.randn(5, VOCAB)
    ids = np.array([VOCAB - 1, 4, VOCAB - 1, 7, VOCAB - 1, VOCAB - 1], dtype=np.int32)
    offsets = np.array([0, 1, 2, 4, 5])
    for temperature in (0.0, 5.0):
        spy = _Spy()
        noise = Noise(rows=slice(0, 5), keys=row_keys(1, 0, offsets), temperature=temperature)
        draws = [noise] if temperature > 0 else []
        scores = score_rows(logits, torch.from_numpy(ids[offsets]).long(), VOCAB - 1, draws)
        row = DecodingRow(
            policy=spy, state={}, block_ids=ids, mask_token_id=VOCAB - 1, step=0, num_left=0,
            num_revoked=0, num_unmasked=0, num_masks=1, seed=1, score_offsets=offsets,
            is_fixed=np.zeros(len(ids), np.bool_),
        )  # fmt: skip
        assert isinstance(decide_rows([row], scores, logits)[0], RowDecision)
        view = spy.views[0]
        assert view.logit is not None
        expected = logits.gather(1, view.candidates[0, offsets][:, None])[:, 0]
        assert torch.equal(view.logit[0, offsets], expected)
        assert view.logit[0, 3] == 0
        assert view.candidates[0, 1] == 4


def _one_mask(confidence: float, logit: float | None) -> BlockView:
    row, one = torch.tensor([[confidence]]), torch.zeros(1, dtype=torch.int64)
    return BlockView(
        candidates=torch.tensor([[7]]),
        confidence=row,
        top1=row,
        top2=torch.zeros_like(row),
        entropy=torch.zeros_like(row),
        masked=torch.tensor([[True]]),
        step=one,
        num_left=one,
        progress=torch.zeros(1),
        seed=one,
        logit=None if logit is None else torch.tensor([[logit]]),
    )
