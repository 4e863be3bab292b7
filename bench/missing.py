"""What a subject or the whole bench cannot do without, and this machine does not have."""


class Missing(Exception):
    """Reads as the end of "skipped: this needs ..."."""
