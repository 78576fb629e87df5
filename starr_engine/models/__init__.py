"""Model families, and the loader that fills them from published checkpoints."""
