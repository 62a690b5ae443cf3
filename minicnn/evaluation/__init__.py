"""A loss at work, and the figures of a forward pass over labelled images: what training and
inference have in common."""
