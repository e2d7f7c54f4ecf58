"""BibTeX of the papers whose definitions the room follows."""

from __future__ import annotations

__all__ = ["ACTADD", "CAA"]

ACTADD = """@article{turner2023steering,
  title={Steering Language Models With Activation Engineering},
  author={Turner, Alexander Matt and Thiergart, Lisa and Leech, Gavin and Udell, David
    and Vazquez, Juan J. and Mini, Ulisse and MacDiarmid, Monte},
  journal={arXiv preprint arXiv:2308.10248},
  year={2023}
}"""

CAA = """@article{rimsky2023steering,
  title={Steering Llama 2 via Contrastive Activation Addition},
  author={Rimsky, Nina and Gabrieli, Nick and Schulz, Julian and Tong, Meg and Hubinger, Evan
    and Turner, Alexander Matt},
  journal={arXiv preprint arXiv:2312.06681},
  year={2023}
}"""
