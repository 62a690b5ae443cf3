"""minicnn's peers, one file each: whatever is installed takes part."""

from importlib.util import find_spec

from peers.jobs import Peer


def installed(with_compile: bool, with_slow: bool) -> list[Peer]:
    """The peers that can be imported here; ``with_slow`` those too that compile for seconds."""
    found: list[Peer] = []
    if find_spec("torch"):
        from peers import with_torch

        found += with_torch.peers(with_compile)
    if with_slow and find_spec("jax"):
        from peers import with_jax as jax_peer

        found += jax_peer.peers()
    if with_slow and find_spec("tensorflow"):
        from peers import with_keras

        found += with_keras.peers()
        if find_spec("ai_edge_litert"):
            from peers import with_litert

            found += with_litert.peers()
    if find_spec("onnxruntime") and find_spec("onnx"):
        from peers import with_onnxruntime

        found += with_onnxruntime.peers()
    if find_spec("openvino") and find_spec("onnx"):
        from peers import with_openvino

        found += with_openvino.peers()
    if find_spec("ncnn") and find_spec("pnnx") and find_spec("onnx"):
        from peers import with_ncnn

        found += with_ncnn.peers()
    return found
