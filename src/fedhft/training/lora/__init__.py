"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the linear maps of a model.

    layer     one adapted map
    attached  putting a layer in the place of each slot's module

PEFT's layers compute the same, bit for bit; they are not used because importing PEFT takes longer, and more memory,
than many edge nodes have for the whole of a small model. Exports are in PEFT's format (`fedhft.export`).
"""
