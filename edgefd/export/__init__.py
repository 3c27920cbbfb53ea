"""From a torch module to what a device runs: ONNX graphs of the training step and of the logits, in a bundle."""
