"""The second tiny model: block-causal, in the published SDAR checkpoint format."""
