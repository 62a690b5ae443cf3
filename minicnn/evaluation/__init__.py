"""The loss of a batch, and the figures of a forward pass over labelled images, for training and
inference."""
