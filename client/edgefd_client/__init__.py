"""The device: trains a bundle's model with ONNX Runtime. Needs neither torch nor Flower."""
