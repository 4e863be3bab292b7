"""The memory door: page faults of NumPy arrays, and of all large allocations of a process, come in here.

Configuration, checks and the Python face; the path of a page is in ``frontswap.core``.
"""
