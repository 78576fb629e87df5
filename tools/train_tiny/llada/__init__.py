"""The first tiny model: bidirectional, in the published LLaDA checkpoint format."""
