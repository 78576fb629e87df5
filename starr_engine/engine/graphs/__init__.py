"""Steps that are recorded once and replayed: what fits, how it is padded, and who records."""
