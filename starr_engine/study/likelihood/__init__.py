"""How probable a model finds a given answer: the Monte-Carlo bound of masked diffusion models."""
