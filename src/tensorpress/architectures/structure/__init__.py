"""Families found by what a class of transformers does; imported only where one is looked for."""
