"""Section 5: the language model, its LoRA adapters, and the texts that it learns from."""
