"""Model families, which encode visual tokens and build prompts with transformers' own modules."""
