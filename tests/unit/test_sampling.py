"""What sampling parameters do to outputs, alone and in mixed batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine import LLM, BlockOutput, RequestError, RequestOutput, SamplingParams
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.samples import sample_seed
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.word_models import write_word_model

EOS, MASK, VOCAB = 1, 3, 101
PROMPTS = as_prompts(random_prompts(3, seed=4))
CROWD = as_prompts(random_prompts(5, seed=5))
TEN = tuple(range(20, 30))
DRAWING: dict[str, dict[str, Any]] = {
    "top_p": {"top_p": 0.3},
    "top_k": {"top_k": 3},
    "min_p": {"min_p": 0.4},
}
LOGITS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 3.0},
    "presence_penalty": {"presence_penalty": 2.0},
    "frequency_penalty": {"frequency_penalty": -2.0},
    "logit_bias": {"logit_bias": {17: 100.0}},
    "bad_words": {"bad_words": tuple(f"w{n}" for n in range(0, 97, 2))},
    "allowed_token_ids": {"allowed_token_ids": TEN},
    "min_tokens": {"min_tokens": 16, "stop_token_ids": tuple(range(4, 90)), "ignore_eos": False},
    "suppress_eos": {"suppress_eos": True, "logit_bias": {EOS: 100.0}, "ignore_eos": False},
    "eos_last": {"eos_last": True, "stop_token_ids": tuple(range(4, 50)), "ignore_eos": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(write_word_model(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def shared(folder: Path) -> LLM:
    return make_llm(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    assert not shared.engine.has_unfinished
    assert_all_pages_free(shared.engine)


def small(**changes: Any) -> SamplingParams:
    given = {"max_tokens": 16, "block_length": 8, "ignore_eos": True, "remasking": "threshold"}
    return SamplingParams(**(given | {"remasking_args": {"threshold": 0.4}} | changes))


def facts(outputs: Sequence[RequestOutput]) -> list[tuple]:
    return [
        (out.token_ids, out.text, out.finish_reason, out.nfe, [e.step for e in out.logprobs or ()])
        for out in outputs
    ]


def logprobs(outputs: Sequence[RequestOutput]) -> Any:
    """To be compared roughly: a matrix product of other sizes rounds otherwise."""
    shown = [[value for _, value in e.top] for out in outputs for e in out.logprobs or ()]
    return pytest.approx(np.array(shown), abs=1e-4)


@pytest.mark.parametrize("name", [*DRAWING, *LOGITS])
def test_a_field_does_something_and_gives_the_same_whatever_shares_the_batch(
    llm: LLM, name: str
) -> None:
    changes = (DRAWING | LOGITS)[name]
    asked = small(**({"temperature": 1.5, "seed": 3} | changes), logprobs=2)
    alone = [llm.generate(prompt, asked)[0] for prompt in PROMPTS]
    others = [
        small(temperature=0.7, seed=n, **other)
        for n, other in enumerate([{}, *DRAWING.values(), {"presence_penalty": 1.0}])
    ]
    mixed = llm.generate(CROWD + PROMPTS, others + [asked] * len(PROMPTS))
    assert facts(mixed[len(CROWD) :]) == facts(alone)
    assert logprobs(mixed[len(CROWD) :]) == logprobs(alone).expected
    apart = llm.generate(CROWD, others)
    assert facts(mixed[: len(CROWD)]) == facts(apart)
    defaults = SamplingParams()
    without = asked.with_overrides({name: getattr(defaults, name)})
    assert facts(llm.generate(PROMPTS, without)) != facts(alone)


@pytest.mark.parametrize("name", DRAWING)
def test_truncation_means_nothing_at_temperature_0(llm: LLM, name: str) -> None:
    assert facts(llm.generate(PROMPTS, small(**DRAWING[name]))) == facts(
        llm.generate(PROMPTS, small())
    )


def test_only_allowed_tokens_come_out_and_a_bias_of_100_decides(llm: LLM) -> None:
    outputs = llm.generate(PROMPTS, small(allowed_token_ids=TEN, temperature=2.0))
    assert {token for out in outputs for token in out.token_ids} <= set(TEN)
    outputs = llm.generate(PROMPTS, small(logit_bias={"17": 100}))
    assert {token for out in outputs for token in out.token_ids} == {17}
    outputs = llm.generate(PROMPTS, small(logit_bias={17: 100, 18: 99}, bad_words=["w13"]))
    assert {token for out in outputs for token in out.token_ids} == {18}


PARALLEL: list[tuple[str, dict[str, Any]]] = [
    ("threshold", {"threshold": 0.0}),
    ("threshold", {"threshold": 0.3}),
    ("low_confidence", {"tokens_per_step": 3}),
    ("starr", {}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.2, "c_slow": 0.1}),
    ("token_edit", {"threshold": 0.2, "edit_threshold": 0.0, "max_post_steps": 1}),
]


@pytest.mark.parametrize(("remasking", "args"), PARALLEL)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_bad_word_appears_however_many_positions_a_step_unmasks(
    llm: LLM, remasking: str, args: dict[str, Any], temperature: float
) -> None:
    # Eight tokens make most pairs appear soon. Between any two neighbours some token is allowed.
    few = range(24, 32)
    pairs = [(a, b) for a in few for b in few if (a + b) % 3 == 0] + [(25, 27, 25), (29, 30, 30)]
    words = [" ".join(f"w{token - 4}" for token in pair) for pair in pairs]
    base = small(
        allowed_token_ids=few, remasking=remasking, remasking_args=args, temperature=temperature,
        max_tokens=24,
    )  # fmt: skip
    params = [base.with_overrides({"seed": seed, "bad_words": words}) for seed in range(8)]
    outputs = llm.generate(PROMPTS[:1] * 8 + PROMPTS[1:2] * 8, params * 2)
    free = llm.generate(PROMPTS[:1] * 8, [p.with_overrides({"bad_words": ()}) for p in params])
    assert any(hits(out, pairs) for out in free), "nothing would have been forbidden"
    for out in outputs:
        assert out.error is None
        assert not hits(out, pairs)
        assert set(out.token_ids) <= set(few)
        assert len(out.token_ids) == 24


def hits(output: RequestOutput, words: list[tuple[int, ...]]) -> bool:
    ids = output.token_ids
    return any(
        ids[at : at + len(word)] == word for word in words for at in range(len(ids) - len(word) + 1)
    )


def test_a_request_that_forbids_everything_somewhere_fails_alone_and_with_the_reason(
    llm: LLM,
) -> None:
    # w20 after w20 is forbidden, and nothing else is allowed: one step can put one token only.
    stuck = small(allowed_token_ids=[24], bad_words=["w20 w20"])
    bad, good = llm.generate(PROMPTS[:2], [stuck, small()])
    assert bad.finish_reason == "error"
    assert bad.error is not None
    assert "options forbid every token at position" in bad.error
    assert "bad_words" in bad.error
    assert facts([good]) == facts(llm.generate(PROMPTS[1], small()))
    early = small(allowed_token_ids=[EOS, 24], bad_words=["w20"], min_tokens=4, ignore_eos=False)
    [output] = llm.generate(PROMPTS[0], early)
    assert "forbid every token at position 0 of the block" in (output.error or "")


@pytest.mark.parametrize("remasking", ["threshold", "starr", "low_confidence"])
def test_log_probabilities_are_those_of_the_confidences_at_the_unmasking_step(
    llm: LLM, reference: Reference, remasking: str
) -> None:
    params = small(
        remasking=remasking, remasking_args={}, logprobs=3, temperature=1.2, top_k=5, cache="none"
    )
    [output] = llm.generate(PROMPTS[0], params)
    assert output.logprobs is not None
    assert tuple(entry.token_id for entry in output.logprobs) == output.token_ids
    assert {entry.step for entry in output.logprobs} <= set(range(1, output.nfe + 1))
    prompt = PROMPTS[0]["prompt_token_ids"]
    for place, entry in enumerate(output.logprobs):
        # The canvas before that step: what was unmasked earlier, masks elsewhere.
        canvas = prompt + [
            token if other.step < entry.step else MASK
            for token, other in zip(output.token_ids, output.logprobs, strict=True)
        ]
        logits = torch.from_numpy(reference.model.logits(canvas)[len(prompt) + place])
        logits[MASK] = -torch.inf
        expected = logits.log_softmax(-1)
        assert entry.logprob == pytest.approx(expected[entry.token_id].item(), abs=1e-4)
        assert [value for _, value in entry.top] == pytest.approx(
            expected.topk(3).values.tolist(), abs=1e-4
        )
        assert len(entry.top) == 3
        assert entry.logprob <= entry.top[0][1]


def test_log_probabilities_know_bias_but_not_temperature(llm: LLM) -> None:
    forced = small(logit_bias={17: 100.0}, logprobs=20, temperature=5.0, top_k=1)
    [output] = llm.generate(PROMPTS[0], forced)
    assert output.logprobs is not None
    assert all(entry.logprob == pytest.approx(0, abs=1e-6) for entry in output.logprobs)
    [two] = llm.generate(PROMPTS[0], small(allowed_token_ids=[20, 21], logprobs=20))
    for entry in two.logprobs or ():
        assert {token for token, _ in entry.top} == {20, 21}
        assert sum(np.exp(value) for _, value in entry.top) == pytest.approx(1)
    [none] = llm.generate(PROMPTS[0], small(logprobs=0))
    assert [entry.top for entry in none.logprobs or ()] == [()] * 16
    assert llm.generate(PROMPTS[0], small())[0].logprobs is None


def test_a_revoked_token_shows_its_last_unmasking(llm: LLM) -> None:
    args = {"revoke_below": 0.9, "tau_min": 0.0, "c_slow": 0.0}
    params = small(remasking="starr", remasking_args=args, logprobs=0, temperature=1.0)
    for output in llm.generate(PROMPTS, params):
        assert tuple(entry.token_id for entry in output.logprobs or ()) == output.token_ids
        assert output.nfe > 2, "nothing was revoked"
        assert {entry.step for entry in output.logprobs or ()} <= set(range(1, output.nfe + 1))


def test_the_log_probability_is_that_of_the_token_a_policy_puts(llm: LLM) -> None:
    params = small(remasking="put_second", remasking_args={}, logprobs=2)
    for output in llm.generate(PROMPTS, params):
        for entry in output.logprobs or ():
            assert (entry.token_id, entry.logprob) == entry.top[1]


def test_a_policy_cannot_put_a_token_that_the_request_forbids(llm: LLM) -> None:
    params = small(remasking="put_second", remasking_args={}, allowed_token_ids=[20])
    for output in llm.generate(PROMPTS, params):
        assert output.token_ids == (20,) * 16


@pytest.fixture(autouse=True, scope="module")
def _put_second() -> Iterator[None]:
    REMASKING_POLICIES.add("put_second", "tests.helpers.odd_policies:PutSecond")
    yield
    del REMASKING_POLICIES._targets["put_second"]


def test_samples_differ_and_the_first_is_the_one_that_one_alone_gives(llm: LLM) -> None:
    many = small(n=4, temperature=2.0, seed=9, logprobs=1)
    outputs = llm.generate(PROMPTS, many)
    singles = llm.generate(PROMPTS, small(temperature=2.0, seed=9, logprobs=1))
    assert facts(outputs) == facts(singles)
    for output in outputs:
        assert len(output.samples) == 4
        assert output.samples[0] is output
        assert len({sample.token_ids for sample in output.samples}) == 4
        for index, sample in enumerate(output.other_samples, start=1):
            assert sample.request_id == f"{output.request_id}.{index}"
    third = small(temperature=2.0, seed=sample_seed(9, 2), logprobs=1)
    assert facts([outputs[1].samples[2]]) == facts(llm.generate(PROMPTS[1], third))


def test_a_stream_gives_every_sample_as_a_request_of_its_own(llm: LLM) -> None:
    params = [small(), small(n=3, temperature=2.0), small()]
    blocks: dict[str, list[int]] = {}
    finished: dict[str, RequestOutput] = {}
    for event in llm.stream(PROMPTS, params):
        if isinstance(event, BlockOutput):
            blocks.setdefault(event.request_id, []).extend(event.token_ids)
        else:
            finished[event.request_id] = event
    assert set(finished) == {"0", "1", "1.1", "1.2", "2"}
    assert {name: tuple(ids) for name, ids in blocks.items()} == {
        name: output.token_ids for name, output in finished.items()
    }
    generated = llm.generate(PROMPTS, params)
    assert [out.token_ids for out in generated[1].samples] == [
        finished[name].token_ids for name in ("1", "1.1", "1.2")
    ]


def test_sample_seeds_are_seeds_and_differ() -> None:
    seeds = [sample_seed(seed, index) for seed in (0, 1, 2**63 - 1) for index in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(5, 0) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 2, "temperature": 1.0}, "a request of the engine is one sample, and n=2"),
        ({"logit_bias": {VOCAB: 1}}, "logit_bias names token 101, outside the vocabulary of 101"),
        ({"logit_bias": {MASK: 1}}, r"logit_bias names the mask token \(id 3\)"),
        ({"allowed_token_ids": [5, 999]}, "allowed_token_ids names token 999, outside"),
        ({"allowed_token_ids": [5, MASK]}, "allowed_token_ids names the mask token"),
        ({"allowed_token_ids": [EOS], "suppress_eos": True}, "no token is left to generate"),
        ({"allowed_token_ids": [24], "bad_words": ["w20"]}, "no token is left to generate"),
        ({"bad_words": ["w1 <mask>"]}, "'w1 <mask>' contains the mask token"),
    ],
)
def test_what_can_never_run_is_refused_before_it_does(
    llm: LLM, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.engine.add_request([5], small(**changes))


def test_bad_words_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    bare = LLM(str(sharp_checkpoint(tmp_path)), device="cpu")
    with pytest.raises(RequestError, match="bad_words need a tokenizer"):
        bare.generate(PROMPTS[0], small(bad_words=["w1"]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rules_work_on_logits_of_half_precision(folder: Path, dtype: str) -> None:
    half = make_llm(folder, dtype=dtype)
    params = [
        small(),
        small(allowed_token_ids=TEN, presence_penalty=0.5, logprobs=2),
        small(remasking="put_second", remasking_args={}, allowed_token_ids=TEN),
        small(logit_bias={17: 100.0}, temperature=1.0, top_p=0.9),
    ]
    plain, few, put, forced = half.generate(PROMPTS + PROMPTS[:1], params)
    assert plain.finish_reason == "length"
    assert set(few.token_ids) | set(put.token_ids) <= set(TEN)
    assert forced.token_ids == (17,) * 16
