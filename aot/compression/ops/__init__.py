"""Mathematics that several methods share: tensors in, tensors out. No model, no file, no settings object."""
