"""Models and how they are trained: torch, ONNX Runtime, distillation losses."""
