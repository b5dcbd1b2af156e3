"""Client signatures and the Gaussian mixture over them."""
