"""Export of a torch module to a bundle for devices: ONNX graphs of the training step and of the logits."""
