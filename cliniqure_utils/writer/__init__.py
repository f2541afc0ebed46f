"""Section 5: the language model, its LoRA adapters, and the texts that it learns from.

base_model loads, lora adapts, fine_tuning trains on what batches makes of texts, generation writes. The texts: diseases
(a table), indiana (reports of radiologists), pairs (prompts and answers as the chain will make them).
"""
