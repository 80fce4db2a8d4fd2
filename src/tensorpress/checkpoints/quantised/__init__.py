"""Weights from codes and scales, one file a format; each has ``weights`` (``base.Reader``)."""
