"""The block device door: ``frontswap serve`` speaks NBD in front of swap areas.

What may enter: negotiation, exports, bases, the server; plain Python. What may not: pages. What a client asks for once
it has its export is answered in ``frontswap.core.nbd``.
"""
