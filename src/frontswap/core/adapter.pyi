from ..backends.contract import Backend
from .native import Native

class PythonBackend(Native):
    def __init__(self, name: str, backend: Backend) -> None: ...
    @property
    def backend(self) -> Backend: ...
