"""Measuring: metrics of predictions and rankings, and how far to believe them; arrays in, numbers out."""
