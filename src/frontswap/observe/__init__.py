"""Counters for people and scripts: read when asked for, never on the path of a page."""
