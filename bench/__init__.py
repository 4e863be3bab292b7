"""Frontswap's memory door beside the kernel's zram and NumPy's memmap: `python -m bench`, see README.md here."""
