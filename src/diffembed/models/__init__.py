"""Models: directories on disk, backbones opened for bidirectional reading, pooling, quantizer, ONNX export."""
