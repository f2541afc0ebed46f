"""How `data/pretrained` is made: simulated patients as varied as real ones, and the recipes that learn from them.

`simulation` makes one film, `films` many (straight into arrays), `appearance` changes their look while a network
learns, `eyes` and `report` train, `command` is `cliniqure pretrain`. No patient of a cohort, no real film and no
licensed report goes in.
"""
