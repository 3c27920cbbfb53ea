"""Models, their training in torch and in ONNX Runtime, and the losses of distillation."""
