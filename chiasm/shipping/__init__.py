"""Recognisers and collections as one file of ONNX graphs, which runs without chiasm."""
