"""Training: the loop, the optimizer and loss that it drives, and the events that it emits. It never
prints."""
