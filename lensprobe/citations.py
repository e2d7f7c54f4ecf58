"""BibTeX of the papers whose definitions more than one room follows."""

from __future__ import annotations

__all__ = ["ELHAGE", "GU", "GUO"]

GU = """@inproceedings{gu2025attention,
  title = {When Attention Sink Emerges in Language Models: An Empirical View},
  author = {Gu, Xiangming and Pang, Tianyu and Du, Chao and Liu, Qian and Zhang, Fengzhuo and
            Du, Cunxiao and Wang, Ye and Lin, Min},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2025},
  eprint = {2410.10781},
  archivePrefix = {arXiv}
}"""
GUO = """@article{guo2024active,
  title = {Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in
           LLMs},
  author = {Guo, Tianyu and Pai, Druv and Bai, Yu and Jiao, Jiantao and Jordan, Michael I. and
            Mei, Song},
  journal = {arXiv preprint arXiv:2410.13835},
  year = {2024}
}"""
ELHAGE = """@article{elhage2021mathematical,
  title = {A Mathematical Framework for Transformer Circuits},
  author = {Elhage, Nelson and Nanda, Neel and Olsson, Catherine and Henighan, Tom and Joseph, Nicholas
            and Mann, Ben and Askell, Amanda and Bai, Yuntao and Chen, Anna and Conerly, Tom and
            DasSarma, Nova and Drain, Dawn and Ganguli, Deep and Hatfield-Dodds, Zac and Hernandez,
            Danny and Jones, Andy and Kernion, Jackson and Lovitt, Liane and Ndousse, Kamal and
            Amodei, Dario and Brown, Tom and Clark, Jack and Kaplan, Jared and McCandlish, Sam and
            Olah, Chris},
  journal = {Transformer Circuits Thread},
  year = {2021}
}"""
