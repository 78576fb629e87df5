"""One module per family of checkpoints, beside what it reads from their configuration."""
