"""What the requests of an evaluation have cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starr_engine.outputs import RequestOutput
from starr_engine.study.likelihood.progress import AnswerScore


@dataclass(slots=True)
class Totals:
    """Sums over requests; a tokens-per-second of these would hide accuracy, so there is none."""

    generated: int = 0
    """Requests of ``generate_until``."""

    nfe: int = 0
    """Their forwards."""

    unmasked: int = 0
    """Positions they unmasked."""

    output_tokens: int = 0
    """Tokens of their outputs, EOS and what follows left out."""

    computed_rows: int = 0
    cache_labels: set[str] = field(default_factory=set)
    scored: int = 0
    """Answers whose likelihood was taken."""

    scoring_forwards: int = 0

    @property
    def tpf(self) -> float:
        """Unmasked positions per forward; 0 before the first."""
        return self.unmasked / self.nfe if self.nfe else 0.0

    def add_output(self, output: RequestOutput) -> None:
        """Count a generated text."""
        self.generated += 1
        self.nfe += output.nfe
        self.unmasked += output.num_unmasked
        self.output_tokens += len(output.token_ids)
        self.computed_rows += output.computed_rows
        self.cache_labels.add(output.cache_label)

    def add_score(self, score: AnswerScore) -> None:
        """Count a scored answer."""
        self.scored += 1
        self.scoring_forwards += score.forwards

    def to_plain(self) -> dict[str, Any]:
        """As JSON's values."""
        return {
            "generated": self.generated,
            "nfe": self.nfe,
            "nfe_per_request": self.nfe / self.generated if self.generated else 0.0,
            "tokens_per_forward": self.tpf,
            "output_tokens": self.output_tokens,
            "computed_rows": self.computed_rows,
            "cache_labels": sorted(self.cache_labels),
            "scored": self.scored,
            "scoring_forwards": self.scoring_forwards,
        }
