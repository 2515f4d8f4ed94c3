"""The definition of every op in plain PyTorch: its documentation, its float64 oracle and its fallback."""
