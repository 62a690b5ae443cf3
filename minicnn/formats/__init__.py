"""Models in and out: to ONNX and from it, and out to a folder of NumPy alone and to one C99 file."""
