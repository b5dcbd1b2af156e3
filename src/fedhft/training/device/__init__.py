"""Where a model is: on the CPU, or on an accelerator.

    choice      which device a name means, whether it works, and in what precision a base model is held on it
    failure     what a device raises when it is gone or full, as refusals
    state       memory and random numbers of a device
    trying      looking for a device in a process of its own: `python -m fedhft.training.device.trying NAME`

Adapters, heads, gradients and the optimiser are float32 everywhere. Rows, masks, scores and updates are on the CPU: a
batch goes to the device, and what was trained comes back from it once a round.
"""
