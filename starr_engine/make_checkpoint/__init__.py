"""Random checkpoints in the published formats, for machines without weights."""
