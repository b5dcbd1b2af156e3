"""Base models that are larger than the memory there is for them.

    skeleton   a model without values
    reading    values from safetensors files, a tensor at a time
    layers     a model of which only some layers have values: those in training, and for a moment the one being run

With the cache of frozen layers (`training.prefix`) a model is needed whole only while its rows are passed through it
once, and then one layer after another is enough.
"""
