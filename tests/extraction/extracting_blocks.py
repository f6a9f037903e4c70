"""Extracts blocks of a pickled plan in a process of its own.

python extracting_blocks.py PLAN BLOCKS SPLIT:START ...
    PLAN and BLOCKS are files. Extracts the blocks that begin at these rows; prints the views of each.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from featcache.extraction.block import extract_blocks
from featcache.extraction.plan import Block, ExtractionPlan


def main(plan_file: str, blocks_file: str, names: list[str]) -> None:
    plan: ExtractionPlan = pickle.loads(Path(plan_file).read_bytes())
    blocks: list[Block] = pickle.loads(Path(blocks_file).read_bytes())
    by_name = {f"{block.split}:{block.rows.start}": block for block in blocks}
    opened = plan.open()
    for name in names:
        print(extract_blocks(plan, [by_name[name]], opened).views)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
