"""Training encoders further: networks as PyTorch modules, stored views of items, and the training itself."""
