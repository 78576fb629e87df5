"""From a model's name to its files, and from files to a filled model."""
