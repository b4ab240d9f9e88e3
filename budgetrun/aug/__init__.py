"""Steps of the augmentation, batched on the device."""
