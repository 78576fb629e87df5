"""An answer block by block: each is printed when it is committed, which makes it final.

    python examples/stream.py

Blocks are committed from left to right; within a block tokens come in any order. Several prompts
stream at once, told apart by their request ids. To watch a block fill in, see many_callers.py.
"""

from __future__ import annotations

from starr_engine import LLM, BlockOutput, SamplingParams

PROMPTS = [
    "Ben has 20 books. Ben drops 6. Next Ben gets 8 more. Then Ben gives 6 to Rosa. "
    "How many books are left for Ben?",
    "Put in falling order: 2, 25, 18, 73, 60",
]


def main() -> None:
    """Print every block with the forwards its request has taken so far."""
    llm = LLM("tiny-llada")
    params = SamplingParams(max_tokens=64, block_length=16)
    with llm.stream(PROMPTS, params) as stream:
        for event in stream:
            if isinstance(event, BlockOutput):
                name = f"request {event.request_id}, block {event.block_index}"
                print(f"{name}, after {event.num_forwards} forwards: {event.text!r}")
            else:
                print(f"request {event.request_id} is done: {event.finish_reason}, NFE {event.nfe}")


if __name__ == "__main__":
    main()
