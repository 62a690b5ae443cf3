"""What models are written as and read from."""

NEVER = {  # the operations that the graph of inference has none of, and why
    **dict.fromkeys(("batch_statistics", "batch_norm"), "inference has scale_shift in its place"),
    **dict.fromkeys(("dropout", "dropout2d", "drop_path"), "inference leaves it out"),
    "winograd_conv2d": "it is a conv2d, computed another way",
    "add_relu": "it is made of add and relu, which leave one by one",
    "conv_pool_grey": "it is made of conv2d, relu and max_pool2d, which leave one by one",
}
