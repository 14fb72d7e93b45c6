"""Model families: how each builds its visual tokens and its prompt from stock transformers modules."""
