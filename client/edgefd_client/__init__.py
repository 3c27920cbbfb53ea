"""The device: trains a bundle's model with ONNX Runtime, needing neither torch nor Flower; and the Flower ClientApp."""
