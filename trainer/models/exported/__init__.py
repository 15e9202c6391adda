"""Networks that were exported: TorchScript, programs of torch.export, ONNX graphs."""
