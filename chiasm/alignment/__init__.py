"""Alignment: maps between embedding spaces, learned from pairs; arrays in, arrays out."""
