"""The oracle: what minicnn must compute, as NumPy float64 loops that import nothing from
minicnn."""
