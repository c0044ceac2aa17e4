"""Milliseconds to turn perfect flows into labels and cells, and to make flows of labels, by image size.

With --noise the flows are shaken, as those of a network are where it is not sure. Where Cellpose is
installed, its own decoder follows on the same maps.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, print_table, warm_median
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells, flow_to_labels, labels_to_flow


def main() -> None:
    """Time the decoders on every size and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--noise", type=float, default=0.2, help="sigma added to the unit flow (default 0.2)")
    args = parser.parse_args()
    peer = _cellpose_decoder()
    rows = [row for side in args.sides for row in [_row(side, args.repeats, args.noise, peer)]]
    head = ["side px", "nuclei", "cells", "labels ms", "cells ms", "Mpx/s", "targets ms", "cellpose ms"]
    print_table(head, rows)
    if peer is None:
        print("cellpose: skipped, not installed.")


def _row(
    side: int, repeats: int, noise: float, peer: Callable[[np.ndarray, np.ndarray], object] | None
) -> list[object]:
    with tempfile.TemporaryDirectory() as name:
        n = draw_nuclei(Path(name), side)
        truth = np.load(Path(name) / "labels.npy")
    flow = labels_to_flow(truth)
    flow += np.random.default_rng(0).normal(0, noise, flow.shape).astype(np.float32)
    probability = np.where(truth > 0, np.float32(0.95), np.float32(0.05))
    settings = FlowSettings()
    cells = len(flow_to_cells(flow, probability, settings))
    to_labels = warm_median(lambda: flow_to_labels(flow, probability > 0.5), repeats)
    to_cells = warm_median(lambda: flow_to_cells(flow, probability, settings), repeats)
    targets = warm_median(lambda: labels_to_flow(truth), 1)
    other = warm_median(lambda: peer(flow, probability), 1) if peer else float("nan")
    return [
        side,
        n,
        cells,
        to_labels * 1e3,
        to_cells * 1e3,
        side**2 / 1e6 / to_cells,
        targets * 1e3,
        other * 1e3,
    ]


def _cellpose_decoder() -> Callable[[np.ndarray, np.ndarray], object] | None:
    if importlib.util.find_spec("cellpose") is None:
        return None
    from cellpose import dynamics

    def decode(flow: np.ndarray, probability: np.ndarray) -> object:
        return dynamics.compute_masks(
            flow * 5, np.where(probability > 0.5, 6.0, -6.0).astype(np.float32), niter=200
        )

    return decode


if __name__ == "__main__":
    main()
