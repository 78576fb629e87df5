"""Many callers, one batch: a block-by-block stream beside ordinary calls.

python examples/many_callers.py
"""

import asyncio

from starr_engine import AsyncLLM, BlockOutput, ProvisionalOutput, SamplingParams

PROMPTS = [
    "Put in falling order: 2, 25, 18, 73, 60",
    "Write as JSON: In Delhi there is a pilot named Sara, 61 years old.",
]


async def watch(llm: AsyncLLM) -> None:
    """Print a canvas as it fills in: masks as dots, then each block's text."""
    params = SamplingParams(max_tokens=32, block_length=16, remasking="low_confidence")
    async for event in llm.stream(PROMPTS[0], params, provisional=True):
        if isinstance(event, ProvisionalOutput):
            print("".join("." if token is None else "#" for token in event.token_ids))
        elif isinstance(event, BlockOutput):
            print(repr(event.text))


async def main() -> None:
    """A stream and two calls at once; they share the forwards."""
    async with AsyncLLM("tiny-llada") as llm:
        _, *outputs = await asyncio.gather(watch(llm), *map(llm.generate, PROMPTS))
        for output in outputs:
            print(output.text, output.nfe)


if __name__ == "__main__":
    asyncio.run(main())
