"""Section 5: the language model, its LoRA adapters, and the texts that it learns from.

`base_model` loads the model, `lora` adapts it, `batches` makes token batches of texts, `fine_tuning` trains on them,
`generation` writes. The texts come from `diseases` (a table), `indiana` (reports of radiologists) and `pairs` (prompts
and answers as the chain will make them).
"""
