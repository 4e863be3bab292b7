"""What `frontswap serve resize`, `add`, `remove` and `set` ask of a running server, and what it does then.

Both ends of the control socket, so that what one sends is what the other takes. Nothing is changed by what is refused.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..area import parse_weight
from ..errors import ParameterError
from ..sizes import format_size, parse_size
from .control import Answer, as_json, only_server
from .exports import KEEP, Wanted
from .server import Server

#: of --quota and --weight: as if it had never been said
NONE = "none"


def answers(server: Server) -> dict[tuple[str, str], Answer]:
    """What the control socket of a server does."""
    done = {"resize": _resize_here, "add": _add_here, "remove": _remove_here, "set": _set_here}
    return {("POST", f"/{name}"): as_json(partial(do, server)) for name, do in done.items()}


def _resize_here(server: Server, body: Any) -> dict[str, object]:
    match body:
        case {"name": str(name), "size": str(size) | int(size), "reconnect": bool(reconnect), **other} if not other:
            pass
        case _:
            raise ParameterError("resize", body, 'an object with "name", "size" and "reconnect"')
    server.exports.resize(name, parse_size(size, "size"))
    export = server.exports[name]
    return {"name": export.name, "size": export.size, "ended": server.hang_up(export.name) if reconnect else 0}


def _add_here(server: Server, body: Any) -> dict[str, object]:
    match body:
        case {
            "name": str(name),
            "size": str(size) | int(size),
            "base": str() | None as base,
            "quota": str() | int() | None as quota,
            "weight": int() | None as weight,
            "discard": bool(discard),
            **other,
        } if not other:
            pass
        case _:
            allowed = 'an object with "name", "size", "base", "quota", "weight" and "discard"'
            raise ParameterError("add", body, allowed)
    wanted = Wanted(
        name,
        parse_size(size, "size"),
        None if base is None else Path(base),
        None if quota is None else parse_size(quota, f"quota {name!r}"),
        parse_weight(weight, f"weight {name!r}"),
    )
    if wanted.base is not None and not wanted.base.is_absolute():
        raise ParameterError("base", base, "an absolute path: the server is in a directory of its own")
    export = server.exports.add(wanted, discard=discard)
    return {"name": export.name, "size": export.size, "description": export.description}


def _remove_here(server: Server, body: Any) -> dict[str, object]:
    match body:
        case {"name": str(name), "force": bool(force), **other} if not other:
            pass
        case _:
            raise ParameterError("remove", body, 'an object with "name" and "force"')
    server.exports.remove(name, server.hang_up, force=force)
    return {"name": name}


def _set_here(server: Server, body: Any) -> dict[str, object]:
    match body:
        case {"name": str(name), **changes} if changes and not changes.keys() - {"quota", "weight"}:
            pass
        case _:
            raise ParameterError("set", body, 'an object with "name", and "quota" or "weight" or both')
    # What is not said stays. KEEP is not for who asks.
    quota: Any = changes.get("quota", KEEP)
    weight: Any = changes.get("weight", KEEP)
    if "quota" in changes and quota is not None:
        quota = parse_size(quota, f"quota {name!r}")
    if "weight" in changes:
        weight = parse_weight(weight, f"weight {name!r}")
    found = server.exports.set_shares(name, quota=quota, weight=weight).area.statistics()
    return {"name": name, "quota": found.quota_bytes, "weight": found.weight, "pool_bytes": found.pool_bytes}


# --- who asks ------------------------------------------------------------------------------------


def resize(name: str, size: str, *, reconnect: bool, control: Path | None) -> None:
    """`frontswap serve resize`: give an export of a running server another size.

    Raises:
        ParameterError: no size, or it is not clear which server is meant.
        ControlError: no server answers, or it refuses.
    """
    parse_size(size, "size")
    done = _ask(control, "resize", name=name, size=size, reconnect=reconnect)
    ended = f"; {done['ended']} connections were ended" if reconnect else ""
    print(f"export {done['name']!r} has {format_size(done['size'])}{ended}")


def add(
    name: str,
    size: str,
    *,
    base: Path | None,
    quota: str | None,
    weight: int | None,
    discard: bool,
    control: Path | None,
) -> None:
    """`frontswap serve add`: one more export of a running server.

    Raises:
        ParameterError, ControlError: as of resize().
    """
    done = _ask(
        control,
        "add",
        name=name,
        size=parse_size(size, "size"),
        base=None if base is None else str(base.absolute()),
        quota=None if quota is None else parse_size(quota, "quota"),
        weight=parse_weight(weight),
        discard=discard,
    )
    print(f"export {done['name']!r} has {format_size(done['size'])}, {done['description']}")


def remove(name: str, *, force: bool, control: Path | None) -> None:
    """`frontswap serve remove`: take an export of a running server away.

    Raises:
        ParameterError, ControlError: as of resize().
    """
    done = _ask(control, "remove", name=name, force=force)
    print(f"export {done['name']!r} has gone")


def set_shares(name: str, *, quota: str | None, weight: str | None, control: Path | None) -> None:
    """`frontswap serve set`: another quota and weight of an export of a running server; "none" of either.

    Raises:
        ParameterError, ControlError: as of resize().
    """
    asked: dict[str, int | None] = {}
    if quota is not None:
        asked["quota"] = None if quota == NONE else parse_size(quota, "quota")
    if weight is not None:
        if weight != NONE and not weight.isdecimal():
            raise ParameterError("weight", weight, f"a number, or {NONE!r}")
        asked["weight"] = None if weight == NONE else parse_weight(int(weight))
    if not asked:
        raise ParameterError("quota", None, "given, or --weight, or both")
    done = _ask(control, "set", name=name, **asked)
    most = "no quota" if done["quota"] < 0 else f"a quota of {format_size(done['quota'])}"
    print(f"export {done['name']!r} has {most}, weight {done['weight']}, {format_size(done['pool_bytes'])} in RAM")


def _ask(control: Path | None, what: str, **asked: object) -> Any:
    from .asking import ask  # http.client: the server, which is here too, does without (control.py)

    # Without a deadline: a device may have to be filled with zeros, pages have to go to a base.
    return ask(control or only_server(), f"/{what}", asked, patience=None)
