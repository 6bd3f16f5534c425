"""Vectors for ops of control.cc."""

from common import Cases, numbers

cases = Cases("control.json", origin="by definition")
x = numbers((2, 3), seed=1)
cases.add("identity", {"x": x}, [x])
cases.write()
