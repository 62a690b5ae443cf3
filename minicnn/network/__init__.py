"""Networks as data: layers, the shapes between them, first weights, presets, and descriptions in TOML."""
