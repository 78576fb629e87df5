"""Training tiny-sdar: what its rows see, what is hidden, and that decoding agrees."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tools.train_tiny.data import Batch
from tools.train_tiny.muon import Float32Muon, orthogonalise
from tools.train_tiny.sdar.decode import decode
from tools.train_tiny.sdar.format import published_config
from tools.train_tiny.sdar.model import SdarConfig, TinySDAR
from tools.train_tiny.sdar.objective import hide_in_blocks, lay_out

BLOCK, MASK, EOS, VOCAB = 4, 1, 2, 20
SHAPES = [(0, 3), (0, 8), (3, 9), (4, 12), (6, 17), (9, 11)]
CONFIG = SdarConfig(
    vocab_size=VOCAB,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_hidden_layers=2,
    intermediate_size=16,
)


@pytest.fixture
def model() -> TinySDAR:
    torch.manual_seed(0)
    model = TinySDAR(CONFIG).double().eval()
    for parameter in model.parameters():  # norms too: nothing may be right by being 1
        parameter.data.normal_(0.5 if parameter.dim() == 1 else 0.0, 0.5)
    return model


def block_causal(length: int) -> Tensor:
    """What a row of one clean sequence does not attend to."""
    block = torch.arange(length) // BLOCK
    return block[:, None] < block


def batch_of(prompt_len: int, length: int, size: int = 3) -> Batch:
    ids = torch.randint(3, VOCAB, (size, length), generator=torch.Generator().manual_seed(1))
    maskable = (torch.arange(length) >= prompt_len).expand(size, -1)
    chain = maskable & (torch.arange(length) % 3 == 0)
    return Batch("any", ids, maskable, torch.ones(size, length), prompt_len, False, chain)


@pytest.mark.parametrize(("prompt_len", "length"), SHAPES)
def test_every_noisy_block_sees_what_a_step_of_decoding_sees(
    model: TinySDAR, prompt_len: int, length: int
) -> None:
    batch = batch_of(prompt_len, length)
    noisy, _, _ = hide_in_blocks(batch, BLOCK, MASK, torch.Generator().manual_seed(0), 0.5)
    layout = lay_out(prompt_len, length, BLOCK)
    rows = torch.cat((batch.ids[:, : layout.last], noisy[:, layout.start :]), dim=1)
    states, _ = model.states(rows, layout.positions, layout.hidden)
    for start in range(layout.start, length, BLOCK):
        stop = min(start + BLOCK, length)
        ids = torch.cat((batch.ids[:, :start], noisy[:, start:stop]), dim=1)
        expected, _ = model.states(ids, torch.arange(stop), block_causal(stop))
        first = layout.last - layout.start + start
        got = states[:, first : first + stop - start]
        torch.testing.assert_close(got, expected[:, start:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prompt_len", "length"), SHAPES)
@pytest.mark.parametrize("chain_share", [0.0, 0.5, 1.0])
def test_only_the_canvas_is_hidden_and_weights_stay_within_bounds(
    prompt_len: int, length: int, chain_share: float
) -> None:
    batch = batch_of(prompt_len, length, size=50)
    generator = torch.Generator().manual_seed(0)
    ids, hidden, weight = hide_in_blocks(batch, BLOCK, MASK, generator, chain_share)
    assert not hidden[:, :prompt_len].any()
    assert torch.equal(ids, batch.ids.masked_fill(hidden, MASK))
    assert weight.min() >= 1
    assert weight.max() <= 4
    share = hidden[:, prompt_len:].float().mean()
    assert 0.2 < share < 0.8


def test_a_chosen_block_hides_its_numbers_from_some_position_on() -> None:
    batch = batch_of(2, 15, size=200)
    _, hidden, _ = hide_in_blocks(batch, BLOCK, MASK, torch.Generator().manual_seed(0), 1.0)
    for row in range(200):
        for start in range(0, 15, BLOCK):
            numbers = batch.chain[row, start : start + BLOCK]
            found = hidden[row, start : start + BLOCK][numbers].tolist()
            assert found == sorted(found)  # shown ones first
            if numbers.any():
                assert any(found)


def reference_decode(model: TinySDAR, prompt: list[int], max_tokens: int) -> list[int]:
    """The slow twin: no cache, no batch, the whole sequence in every step."""
    canvas = torch.tensor([*prompt, *[MASK] * max_tokens])
    length = len(canvas)
    for start in range(len(prompt) // BLOCK * BLOCK, length, BLOCK):
        stop = min(start + BLOCK, length)
        while (canvas[:stop] == MASK).any():
            states, _ = model.states(canvas[None, :stop], torch.arange(stop), block_causal(stop))
            logits = model.logits(states)[0]
            logits[:, MASK] = -torch.inf
            confidence, candidate = logits.float().softmax(-1).max(-1)
            best = int(confidence.masked_fill(canvas[:stop] != MASK, -1.0).argmax())
            canvas[best] = candidate[best]
        answer = canvas[len(prompt) : stop].tolist()
        if EOS in answer:
            return answer[: answer.index(EOS)]
    return canvas[len(prompt) :].tolist()


def test_decoding_many_prompts_with_a_cache_gives_what_one_without_gives(model: TinySDAR) -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(3, VOCAB) for _ in range(1 + i % 11)] for i in range(24)]
    got = decode(model, prompts, MASK, EOS, BLOCK, max_tokens=10, batch_size=5)
    with torch.inference_mode():
        expected = [reference_decode(model, prompt, 10) for prompt in prompts]
    assert got == expected
    assert len({len(answer) for answer in got}) > 1  # some end early


def test_the_architecture_is_that_of_qwen3(model: TinySDAR) -> None:
    transformers = pytest.importorskip("transformers")
    fields = published_config(CONFIG, MASK, EOS)
    del fields["architectures"], fields["model_type"], fields["torch_dtype"]
    config = transformers.Qwen3Config(**fields, attn_implementation="eager")
    qwen = transformers.Qwen3ForCausalLM(config).double().eval()
    missing, unexpected = qwen.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    ids = torch.randint(3, VOCAB, (2, 9))
    hidden = block_causal(9)
    mask = torch.zeros(9, 9, dtype=torch.double).masked_fill(hidden, -torch.inf)[None, None]
    with torch.inference_mode():
        expected = qwen(ids, attention_mask=mask, use_cache=False).logits
        logits = model.logits(model.states(ids, torch.arange(9), hidden)[0])
    # both turn and normalise in float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_float32_muon_is_torchs_up_to_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    shapes = [(24, 24), (24, 24), (48, 24), (24, 48)]
    start = [torch.randn(shape) for shape in shapes]
    mine = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    optimizers = [
        Float32Muon(mine),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw"),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.01, 0.1
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, old in zip(mine, theirs, start, strict=True):
        assert (a - b).norm() < 0.03 * (a - old).norm()


def test_orthogonalising_brings_singular_values_near_one() -> None:
    matrices = torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.5
