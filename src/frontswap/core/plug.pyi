from ..policies.contract import Policy
from .hooks import Hooks

def plug(hooks: Hooks, policy: Policy) -> None: ...
