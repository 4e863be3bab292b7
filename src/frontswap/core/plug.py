"""A policy's methods where the pool calls them. Imported by who has a policy, for its type brings NumPy."""

import cython
from cython.cimports.frontswap.core.hooks import Hooks
from cython.cimports.frontswap.policies.contract import Policy


def holds(of, page):
    """Is a page held?"""
    return cython.cast(Policy, of).holds(page)


def hit(of, page):
    """A page that is held was used."""
    cython.cast(Policy, of).on_hit(page)


def insert(of, page):
    """A page has come in."""
    cython.cast(Policy, of).on_insert(page)


def victim(of, coming):
    """Who leaves; `coming`: for whom, 0: nobody (the pool has no page 0)."""
    return cython.cast(Policy, of).on_victim(cython.cast(Policy, of).nobody if coming == 0 else coming)


def remove(of, page):
    """A page is no more."""
    cython.cast(Policy, of).on_remove(page)


def resize(of, capacity):
    """So many pages fit."""
    cython.cast(Policy, of).on_resize(capacity)


def count(of):
    """Pages held."""
    return cython.cast(Policy, of).count


def plug(hooks: Hooks, policy: Policy) -> None:
    """The pool of these hooks, which has no pages yet, goes by a policy. The hooks keep it."""
    of: cython.p_void = cython.cast(cython.p_void, policy)
    hooks.pg.policy.holds = holds
    hooks.pg.policy.hit = hit
    hooks.pg.policy.insert = insert
    hooks.pg.policy.victim = victim
    hooks.pg.policy.remove = remove
    hooks.pg.policy.resize = resize
    hooks.pg.policy.count = count
    hooks.pg.policy.of = of
