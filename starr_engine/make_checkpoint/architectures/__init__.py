"""One module per architecture: the published configuration of each size."""
