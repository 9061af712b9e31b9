"""Export of saved models to ONNX, OpenVINO and AOTInductor."""
