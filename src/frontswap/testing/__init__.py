"""Shipped tests: what every Memory must survive on the machine it runs on. ``python -m frontswap.testing.soak``."""
