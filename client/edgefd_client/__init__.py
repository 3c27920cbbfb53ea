"""The device: trains the model of a bundle with ONNX Runtime, without torch or Flower; and the Flower ClientApp."""
