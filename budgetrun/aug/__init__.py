"""Augmentation steps, batched on the device."""
