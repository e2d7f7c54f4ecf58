"""BibTeX of the paper on repeated tokens, for every result that follows it."""

from __future__ import annotations

__all__ = ["YONA"]

YONA = """@article{yona2025interpreting,
  title = {Interpreting the Repeated Token Phenomenon in Large Language Models},
  author = {Yona, Itay and Shumailov, Ilia and Hayes, Jamie and Barbero, Federico and
            Gandelsman, Yossi},
  journal = {arXiv preprint arXiv:2503.08908},
  year = {2025}
}"""
