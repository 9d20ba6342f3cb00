"""How many orders of magnitude a matrix of costs may span: the gaps that stay, as Markdown.

    python docs/benchmarks/exact_range.py

Costs are uniform in their logarithm, three draws a row; a gap of at most 1e-6 of the cost is a
proof.
"""

import warnings

import torch

from otmetrics import ConvergenceWarning, exact_transport

ROWS = [(60, 60, 16.0), (60, 50, 16.0), (800, 750, 8.0), (800, 750, 8.5), (800, 750, 9.0)]
ROWS += [(800, 750, 10.0)]
DRAWS = 3


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| costs | orders of magnitude | proved | gap / cost |")
    print("| --- | ---: | ---: | ---: |")
    for n, m, orders in ROWS:
        results = []
        for seed in range(DRAWS):
            uniform = torch.rand(
                n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            results.append(exact_transport(10 ** (orders * uniform)))
        gaps = [float(result.gap / result.cost) for result in results]
        proved = sum(result.converged for result in results)
        spread = f"{min(gaps):.0e} to {max(gaps):.0e}"
        print(f"| {n} x {m} | {orders:g} | {proved} of {DRAWS} | {spread} |")


if __name__ == "__main__":
    main()
