"""Specs: strings and objects that mean the same, and errors that name the part that is wrong and what is allowed."""

from __future__ import annotations

import importlib.metadata
import pickle
from typing import Any

import pytest

import frontswap
from frontswap.backends import ActiveOnly, Backend, Checksum, Inject, Latency, Limit, Null, Stack, Zcache, registry
from frontswap.backends.stack import stacks_of
from frontswap.testing.model import Model

SAME: list[tuple[str, Any]] = [
    ("zcache", Zcache()),
    ("zcache:codec=lz4,size=64M", Zcache(codec="lz4", size="64M")),
    ("zcache:policy=lirs", Zcache(policy="lirs")),
    ("zcache:dedup=on", Zcache(dedup=True)),
    (
        "active_only / limit:size=2GiB / zcache:codec=auto",
        ActiveOnly() / Limit(size="2GiB") / Zcache(codec="auto"),
    ),
    ("limit:size=1G,accept=80% / null", Limit(size=1 << 30, accept=0.8) / Null()),
    (
        "checksum / inject:refuse=10%,delay=250us,virtual=on / zcache",
        Checksum() / (Inject(0.1, delay=25e-5, virtual=True) / Zcache()),
    ),
    ("latency:deadline=2ms,trips=3,rest=1min / zcache", Latency("2ms", 3, 60) / Stack((Zcache(),))),
]


@pytest.mark.parametrize(("spec", "objects"), SAME, ids=[spec for spec, _ in SAME])
def test_strings_and_objects_mean_the_same(spec: str, objects: Any) -> None:
    assert stacks_of(spec) == stacks_of(objects)
    assert str(stacks_of(spec)[0]) == " / ".join(part.split(":")[0] for part in spec.split(" / "))


def test_several_stacks_in_order() -> None:
    names = ["null", "zcache", "model"]
    assert [stack.name for stack in stacks_of("null + limit / zcache + model")] == names
    assert [stack.name for stack in stacks_of(["null", Limit() / Zcache(), "model:most=3"])] == names
    assert stacks_of(None) == stacks_of("") == stacks_of([]) == []


def test_a_backend_in_python_gets_its_parameters() -> None:
    (stack,) = stacks_of("limit:size=1M / model:most=2K")
    assert isinstance(stack.backend, Model)
    assert stack.backend.most == 2048


WRONG = [
    ("tmem", "tmem", "zcache"),
    ("zcache:codecs=lz4", "codecs", "codec, size"),
    ("zcache:codec=lzo", "lzo", '"lz4"'),
    ("zcache:codec", "codec", "parameter=value"),
    ("zcache:codec=", "codec=", "parameter=value"),
    ("zcache:size=1M", "1M", "4 MiB"),
    ("zcache:dedup=maybe", "maybe", '"on"'),
    ("zcache:policy=belady", "belady", '"age" or "fifo"'),
    ("zcache:codec=lz4,codec=lz4", "codec=lz4", "given once"),
    ("limit:size=much / zcache", "much", "size in bytes"),
    ("limit:accept=2 / zcache", "2", "from 0 to 1"),
    ("latency:deadline=soon / zcache", "soon", "duration"),
    ("latency:trips=0 / zcache", "0", "whole number"),
    ("inject:virtual=maybe / zcache", "maybe", '"on"'),
    ("null:x=1", "x", "no parameters"),
    ("limit", "limit", "filter"),
    ("limit / checksum", "checksum", "filter"),
    ("zcache / limit", "zcache", "backend"),
    ("zcache / null", "zcache", "must be the last"),
    ("zcache / ", "zcache /", "backend"),
    ("zcache + + null", "+ null", "one of"),
    ("model:most=x", "x", "size in bytes"),
]


@pytest.mark.parametrize(("spec", "given", "allowed"), WRONG, ids=[spec for spec, _, _ in WRONG])
def test_an_error_names_the_part_that_is_wrong(spec: str, given: str, allowed: str) -> None:
    with pytest.raises(frontswap.SpecError) as caught:
        stacks_of(spec)
    assert given in str(caught.value)
    assert allowed in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.parameter == "backends"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("wrong", [3, {"zcache"}, [3], Limit(), [Limit()]], ids=repr)
def test_what_is_no_spec(wrong: Any) -> None:
    with pytest.raises(frontswap.SpecError):
        stacks_of(wrong)


def test_a_backend_stands_on_nothing() -> None:
    with pytest.raises(frontswap.SpecError):
        (Limit() / Zcache()) / Null()


class Others(Backend):
    """Somebody else's backend."""

    name = "others"

    def __init__(self, url: str, retries: int = 3, strict: bool = False, rate: float = 1.0) -> None:
        self.given = (url, retries, strict, rate)

    def store(self, type: int, offset: int, page: memoryview) -> bool:
        return False

    def load(self, type: int, offset: int, into: memoryview) -> bool:
        return False

    def invalidate_page(self, type: int, offset: int) -> None:
        pass

    def invalidate_area(self, type: int) -> None:
        pass


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package had declared the entry points."""
    entries = [
        importlib.metadata.EntryPoint("others", "test_specs:Others", registry.GROUP),
        importlib.metadata.EntryPoint("no_backend", "test_specs:WRONG", registry.GROUP),
    ]

    def found(group: str) -> list[importlib.metadata.EntryPoint]:
        assert group == registry.GROUP
        return entries

    monkeypatch.setattr(importlib.metadata, "entry_points", found)


@pytest.mark.usefixtures("installed")
def test_others_register_backends_by_entry_points() -> None:
    (stack,) = stacks_of("checksum / others:url=tcp://x:1,retries=2K,strict=on,rate=0.5")
    assert isinstance(stack.backend, Others)
    assert stack.backend.given == ("tcp://x:1", 2048, True, 0.5)
    assert "others" in registry.names()
    with pytest.raises(frontswap.SpecError, match="url="):
        stacks_of("others")
    with pytest.raises(frontswap.SpecError, match="number"):
        stacks_of("others:url=x,rate=fast")
    with pytest.raises(frontswap.SpecError, match="class of Backend"):
        stacks_of("no_backend")
    with pytest.raises(frontswap.SpecError, match="others"):
        stacks_of("nobody")


def test_every_name_is_its_classes_name() -> None:
    """Name in specs, module and counters are one word."""
    for name, place in registry.OURS.items():
        maker = registry.find(name, name)
        assert maker.name == name
        assert place.split(":")[0].rsplit(".", 1)[1] == name
        assert maker.__doc__
