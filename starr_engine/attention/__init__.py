"""Attention backends: how query rows meet the rows they read."""
