"""What networks that were trained on some classes know of others."""
