"""Fill gaps and templates with the shipped model.

python examples/infilling.py
"""

from __future__ import annotations

from starr_engine import LLM

END = "<|endoftext|>"
"""How the shipped model ends an answer; given where the suffix is the end of the text."""


def main() -> None:
    """Print a list with a gap, a gap whose length is not known, and a filled form."""
    llm = LLM("tiny-llada")
    gap, unknown, form = llm.generate(
        [
            {
                "prefix": "Arrange 98, 99, 64, 48, 53 in falling order.99, 98,",
                "suffix": "53, 48" + END,
                "gap": 2,
            },
            {
                "prefix": 'JSON for this: Carla works in London as a cook.{"name": "Carla',
                "suffix": '", "job": "cook"}' + END,
                "gap": (1, 8),
            },
            {
                "prompt": "JSON for this: Carla works in London as a cook.",
                "template": ['{"name": "', 1, '", "city": "', 1, '", "job": "', 1, '"}' + END],
            },
        ]
    )
    print(f"gap of 2 tokens:   ...99, 98,{gap.text} 53, 48")
    print(f"gap of 1 to 8:     {unknown.text!r}, {len(unknown.token_ids)} tokens")
    print(f"                   {unknown.nfe} forward for it, {unknown.total_nfe} for all lengths")
    print(f"slots of the form: {', '.join(form.slots)}, in {form.nfe} forward")


if __name__ == "__main__":
    main()
