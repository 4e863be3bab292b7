"""What authors of backends, and we, test with: conformance suites, a reference backend, soaks.

The suites need pytest (``pip install 'frontswap[testing]'``)::

    from frontswap.testing.conformance import BackendSuite

    class TestMine(BackendSuite):
        def make(self):
            return Mine()

and `pytest` runs them all. ``model`` (model.py) is the backend that they trust.
"""
