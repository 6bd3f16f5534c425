"""Prints the polynomials of src/numeric/vector_math.cc: python3 fit_vector_math.py (needs mpmath).

Each interpolates a function at Chebyshev nodes, which comes close to the least maximal error, and
is printed from its constant on, with the largest error of the polynomial in exact arithmetic.
"""

import mpmath as mp

mp.mp.dps = 60


def fit(name, f, low, high, degree):
    count = degree + 1
    low, high = mp.mpf(low), mp.mpf(high)
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    matrix = mp.matrix(count, count)
    values = mp.matrix(count, 1)
    for row, x in enumerate(nodes):
        values[row] = f(x)
        for column in range(count):
            matrix[row, column] = x**column
    found = mp.lu_solve(matrix, values)
    worst = mp.mpf(0)
    for i in range(501):
        x = low + (high - low) * (mp.mpf(i) + mp.mpf("0.5")) / 501
        wanted = f(x)
        got = mp.polyval(list(found)[::-1], x)
        worst = max(worst, abs(got / wanted - 1))
    numbers = ", ".join(mp.nstr(c, 10, strip_zeros=False) + "f" for c in found)
    print(f"{name}: {{{numbers}}} relative error {mp.nstr(worst, 2)}")


def odd(function):
    """(f(x) / x - 1) / x^2 as a function of x^2."""
    return lambda z: (function(mp.sqrt(z)) / mp.sqrt(z) - 1) / z


def erfcx_over_u(u):
    """erfc(t) e^(t^2) / u at u = 1 / (1 + t / 2)."""
    t = 2 * (1 / u - 1)
    return mp.erfc(t) * mp.exp(t * t) / u


if __name__ == "__main__":
    fit("exp", lambda r: (mp.exp(r) - 1 - r) / r**2, "-0.3475", "0.3474", 4)
    fit("log", odd(mp.atanh), "1e-30", "0.02945", 3)
    fit("atanh", odd(mp.atanh), "1e-30", mp.mpf(1) / 9 + mp.mpf("1e-4"), 5)
    fit("tanh", odd(mp.tanh), "1e-30", mp.mpf("0.625") ** 2, 5)
    fit("erf", lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z), "1e-30", mp.mpf("0.75") ** 2, 6)
    fit("erfc", erfcx_over_u, mp.mpf(1) / mp.mpf("6.2"), 1, 10)
    fit("sin", odd(mp.sin), "1e-30", (mp.pi / 4) ** 2 * mp.mpf("1.01"), 3)
    fit("cos", lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, "1e-20",
        (mp.pi / 4) ** 2 * mp.mpf("1.01"), 3)
    fit("atan", odd(mp.atan), "1e-30", (mp.sqrt(2) - 1) ** 2 * mp.mpf("1.01"), 5)
    fit("sinh", odd(mp.sinh), "1e-30", 1, 3)
