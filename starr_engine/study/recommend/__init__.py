"""The settings for a model, prompts and a limit: a small study, and what follows from it."""
