"""Routers and mixtures of experts give what those of transformers give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, OlmoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from starr_engine.layers.experts import Experts
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.layers.routing import GroupLimitedRouter, SoftmaxRouter
from tests.helpers.moe_reference import fill

SIZE, INNER_SIZE, NUM_EXPERTS = 32, 24, 16


def copy_weights(twin: nn.Module, ours: MoEFeedForward) -> None:
    """Give our mixture the parameters of the twin, drawn before."""
    fill(twin)
    ours.gate.weight.data = twin.gate.weight.data
    ours.experts.gate_up.data = twin.experts.gate_up_proj.data
    ours.experts.down.data = twin.experts.down_proj.data


def rows_of(count: int) -> Tensor:
    """Rows whose router is not sure of itself."""
    return torch.randn((count, SIZE), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe"])
def test_softmax_mixture(family: str, renormalise: bool) -> None:
    sizes = {
        "hidden_size": SIZE,
        "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": 4,
        "norm_topk_prob": renormalise,
    }
    twin: nn.Module
    if family == "qwen3_moe":
        twin = Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(moe_intermediate_size=INNER_SIZE, **sizes))
    else:
        twin = OlmoeSparseMoeBlock(OlmoeConfig(intermediate_size=INNER_SIZE, **sizes))
    ours = MoEFeedForward(
        SoftmaxRouter(SIZE, NUM_EXPERTS, 4, renormalise=renormalise),
        Experts(NUM_EXPERTS, SIZE, INNER_SIZE),
    )
    copy_weights(twin, ours)
    rows = rows_of(37)
    torch.testing.assert_close(ours(rows), twin(rows.unsqueeze(0))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("num_groups", "num_groups_chosen", "renormalise"), [(4, 2, True), (4, 1, False), (1, 1, True)]
)
def test_group_limited_mixture(num_groups: int, num_groups_chosen: int, renormalise: bool) -> None:
    twin = DeepseekV3MoE(
        DeepseekV3Config(
            hidden_size=SIZE,
            moe_intermediate_size=INNER_SIZE,
            n_routed_experts=NUM_EXPERTS,
            num_local_experts=NUM_EXPERTS,
            num_experts_per_tok=3,
            n_group=num_groups,
            topk_group=num_groups_chosen,
            norm_topk_prob=renormalise,
            routed_scaling_factor=2.5,
            n_shared_experts=1,
        )
    )
    gate = GroupLimitedRouter(
        SIZE,
        NUM_EXPERTS,
        3,
        num_groups=num_groups,
        num_groups_chosen=num_groups_chosen,
        renormalise=renormalise,
        scale=2.5,
    )
    ours = MoEFeedForward(
        gate, Experts(NUM_EXPERTS, SIZE, INNER_SIZE), GatedFeedForward(SIZE, INNER_SIZE)
    )
    copy_weights(twin, ours)
    bias = torch.randn(NUM_EXPERTS, generator=torch.Generator().manual_seed(5)) * 0.2
    twin.gate.e_score_correction_bias.copy_(bias)
    gate.expert_bias.data = bias
    assert ours.shared_experts is not None
    ours.shared_experts.load_state_dict(twin.shared_experts.state_dict())
    rows = rows_of(41)

    _, twin_weights, twin_ids = twin.gate(rows)
    expert_ids, weights = gate(rows)
    # Both chose the same; transformers does not sort its choice.
    shown, twin_shown = (
        torch.zeros((41, NUM_EXPERTS)).scatter(1, ids, values)
        for ids, values in ((expert_ids, weights), (twin_ids, twin_weights))
    )
    torch.testing.assert_close(shown, twin_shown)
    assert len(expert_ids.unique()) > 6  # the bias has not collapsed the choice
    torch.testing.assert_close(ours(rows), twin(rows.unsqueeze(0))[0], rtol=1e-5, atol=1e-5)


def test_only_the_best_groups_are_chosen_from() -> None:
    gate = GroupLimitedRouter(
        SIZE, NUM_EXPERTS, 4, num_groups=8, num_groups_chosen=2, renormalise=True
    )
    fill(gate)
    rows = rows_of(50)
    expert_ids, weights = gate(rows)
    # Two groups of two experts hold exactly the four chosen ones.
    assert (expert_ids // 2).sort().values.unflatten(1, (2, 2)).diff(dim=-1).eq(0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    everyone = (rows @ gate.weight.T).sigmoid() + gate.expert_bias
    freely = everyone.topk(4).indices.sort().values
    assert (freely != expert_ids.sort().values).any()  # the limit binds
