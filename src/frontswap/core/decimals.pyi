"""Compiled; its functions are for codec.py alone, see decimals.pxd."""
