from .native import Native

PARAMETER_NAMES: dict[str, tuple[str, ...]]

class Filter(Native):
    def __init__(self, name: str) -> None: ...
    def set(self, **parameters: int) -> None: ...
