"""Model families: visual tokens and prompts, built from stock transformers modules."""
