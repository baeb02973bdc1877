"""The verbs: one module each, where files, encoders and collections meet the mathematics."""
