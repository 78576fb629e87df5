"""Texts from prompts: different settings in one call, token ids in, chats, and several samples.

    python examples/generate.py

Every field of ``SamplingParams`` belongs to one request, so that requests of different policies,
caches and lengths share the forwards of one batch.
"""

from __future__ import annotations

from starr_engine import LLM, SamplingParams

QUESTION = (
    "Ben has 20 books. Ben drops 6. Next Ben gets 8 more. Then Ben gives 6 to Rosa. "
    "How many books are left for Ben?"
)
LIST = "Put in falling order: 2, 25, 18, 73, 60"


def main() -> None:
    """Print outputs with what each of them cost."""
    llm = LLM("tiny-llada")

    # One prompt under three settings, in one batch.
    settings = [
        SamplingParams(max_tokens=64, remasking="low_confidence", cache="none"),
        SamplingParams(remasking="threshold", remasking_args={"threshold": 0.9}, cache="none"),
        SamplingParams(remasking="starr", cache="dual"),
    ]
    print(f"{'remasking':15} {'NFE':>4} {'TPF':>5} {'rows':>5}  {'label':33} last line")
    for params, output in zip(settings, llm.generate([QUESTION] * 3, settings), strict=True):
        print(
            f"{params.remasking:15} {output.nfe:>4} {output.tpf:>5.1f} {output.computed_rows:>5}  "
            f"{output.cache_label:33} {output.text.splitlines()[-1]}"
        )

    # Token ids instead of text, and a conversation through the checkpoint's chat template.
    ids = llm.tokenizer.encode(LIST)
    [from_ids] = llm.generate({"prompt_token_ids": ids}, SamplingParams(max_tokens=32))
    [answer] = llm.chat([{"role": "user", "content": LIST}], SamplingParams(max_tokens=32))
    print(f"\nfrom ids:  {from_ids.text}\nfrom chat: {answer.text}")

    # What the question leaves open is drawn.
    params = SamplingParams(max_tokens=32, temperature=1.5, seed=7, n=3)
    [output] = llm.generate("Write as JSON: a pilot from Delhi.", params)
    for sample in output.samples:
        print(f"sample:    {sample.text}, mean log-confidence {sample.mean_log_confidence:.2f}")


if __name__ == "__main__":
    main()
