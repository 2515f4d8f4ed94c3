"""The papers that the methods come from, as BibTeX: `rankdistill methods --bibtex true`."""

from __future__ import annotations

from collections.abc import Iterable

CIKM = "Proceedings of the {}th ACM International Conference on Information and Knowledge Management (CIKM)"
KDD = "Proceedings of the {} ACM SIGKDD Conference on Knowledge Discovery and Data Mining (KDD)"
WWW = "Proceedings of the ACM Web Conference (WWW)"

# By key: the kind of entry and its fields.
PAPERS: dict[str, tuple[str, dict[str, str]]] = {
    "kang2020derrd": ("inproceedings", {
        "author": "SeongKu Kang and Junyoung Hwang and Wonbin Kweon and Hwanjo Yu",
        "title": "{DE-RRD}: A Knowledge Distillation Framework for Recommender System",
        "booktitle": CIKM.format(29), "year": "2020",
    }),
    "kang2021itemside": ("article", {
        "author": "SeongKu Kang and Junyoung Hwang and Wonbin Kweon and Hwanjo Yu",
        "title": "Item-side ranking regularized distillation for recommender system",
        "journal": "Information Sciences", "volume": "580", "year": "2021",
    }),
    "kang2021topology": ("inproceedings", {
        "author": "SeongKu Kang and Junyoung Hwang and Wonbin Kweon and Hwanjo Yu",
        "title": "Topology Distillation for Recommender System",
        "booktitle": KDD.format("27th"), "year": "2021",
    }),
    "kang2022personalized": ("article", {
        "author": "SeongKu Kang and Dongha Lee and Wonbin Kweon and Hwanjo Yu",
        "title": "Personalized Knowledge Distillation for Recommender System",
        "journal": "Knowledge-Based Systems", "volume": "239", "pages": "107958", "year": "2022",
    }),
    "kang2022consensus": ("inproceedings", {
        "author": "SeongKu Kang and Dongha Lee and Wonbin Kweon and Junyoung Hwang and Hwanjo Yu",
        "title": "Consensus Learning from Heterogeneous Objectives for One-Class Collaborative Filtering",
        "booktitle": WWW, "year": "2022",
    }),
    "kang2023heterogeneous": ("inproceedings", {
        "author": "SeongKu Kang and Wonbin Kweon and Dongha Lee and Jianxun Lian and Xing Xie and Hwanjo Yu",
        "title": "Distillation from Heterogeneous Models for Top-{K} Recommendation",
        "booktitle": WWW, "year": "2023",
    }),
    "tang2018ranking": ("inproceedings", {
        "author": "Jiaxi Tang and Ke Wang",
        "title": "Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System",
        "booktitle": KDD.format("24th"), "year": "2018",
    }),
    "lee2019collaborative": ("inproceedings", {
        "author": "Jae-woong Lee and Minjin Choi and Jongwuk Lee and Hyunjung Shim",
        "title": "Collaborative Distillation for Top-{N} Recommendation",
        "booktitle": "IEEE International Conference on Data Mining (ICDM)", "year": "2019",
    }),
    "lee2021dual": ("inproceedings", {
        "author": "Youngjune Lee and Kee-Eung Kim",
        "title": "Dual Correction Strategy for Ranking Distillation in Top-{N} Recommender System",
        "booktitle": CIKM.format(30), "year": "2021",
    }),
    "kweon2021bidirectional": ("inproceedings", {
        "author": "Wonbin Kweon and SeongKu Kang and Hwanjo Yu",
        "title": "Bidirectional Distillation for Top-{K} Recommender System",
        "booktitle": WWW, "year": "2021",
    }),
    "chen2023unbiased": ("inproceedings", {
        "author": "Gang Chen and Jiawei Chen and Fuli Feng and Sheng Zhou and Xiangnan He",
        "title": "Unbiased Knowledge Distillation for Recommendation",
        "booktitle": "Proceedings of the 16th ACM International Conference on Web Search and Data Mining (WSDM)",
        "year": "2023",
    }),
    "zhu2025frequency": ("inproceedings", {
        "author": "Zhangchi Zhu and Wei Zhang",
        "title": "Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective",
        "booktitle": KDD.format("31st"), "year": "2025",
    }),
    "zhu2025preference": ("article", {
        "author": "Zhangchi Zhu and Wei Zhang",
        "title": "Preference-Consistent Knowledge Distillation for Recommender System",
        "journal": "IEEE Transactions on Knowledge and Data Engineering (TKDE)", "year": "2025",
    }),
    "zhu2025rejuvenating": ("misc", {
        "author": "Zhangchi Zhu and Wei Zhang",
        "title": "Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems",
        "eprint": "2509.20989", "archiveprefix": "arXiv", "year": "2025",
    }),
    "romero2015fitnets": ("inproceedings", {
        "author": "Adriana Romero and Nicolas Ballas and Samira Ebrahimi Kahou and Antoine Chassang and Carlo Gatta "
                  "and Yoshua Bengio",
        "title": "{FitNets}: Hints for Thin Deep Nets",
        "booktitle": "International Conference on Learning Representations (ICLR)", "year": "2015",
    }),
    "park2019relational": ("inproceedings", {
        "author": "Wonpyo Park and Dongju Kim and Yan Lu and Minsu Cho",
        "title": "Relational Knowledge Distillation",
        "booktitle": "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)", "year": "2019",
    }),
    "cao2007listnet": ("inproceedings", {
        "author": "Zhe Cao and Tao Qin and Tie-Yan Liu and Ming-Feng Tsai and Hang Li",
        "title": "Learning to Rank: From Pairwise Approach to Listwise Approach",
        "booktitle": "International Conference on Machine Learning (ICML)", "year": "2007",
    }),
    "xia2008listmle": ("inproceedings", {
        "author": "Fen Xia and Tie-Yan Liu and Jue Wang and Wensheng Zhang and Hang Li",
        "title": "Listwise Approach to Learning to Rank: Theory and Algorithm",
        "booktitle": "International Conference on Machine Learning (ICML)", "year": "2008",
    }),
    "hinton2015distilling": ("misc", {
        "author": "Geoffrey Hinton and Oriol Vinyals and Jeff Dean",
        "title": "Distilling the Knowledge in a Neural Network",
        "eprint": "1503.02531", "archiveprefix": "arXiv", "year": "2015",
    }),
}  # fmt: skip

# Of a method of the command line, which papers it comes from.
CITED = {
    "rrd": ("kang2020derrd",),
    "ir-rrd": ("kang2021itemside",),
    "rd": ("tang2018ranking",),
    "cd": ("lee2019collaborative",),
    "dcd": ("lee2021dual",),
    "listwise": ("cao2007listnet", "xia2008listmle", "hinton2015distilling"),
    "unkd": ("chen2023unbiased",),
    "hint": ("romero2015fitnets",),
    "de": ("kang2020derrd",),
    "phr": ("kang2022personalized",),
    "ftd": ("kang2021topology",),
    "htd": ("kang2021topology",),
    "rkd": ("park2019relational",),
    "freqd": ("zhu2025frequency",),
    "pckd": ("zhu2025preference",),
    "bd": ("kweon2021bidirectional",),
    "concf": ("kang2022consensus",),
    "rce_kd": ("zhu2025rejuvenating",),
    "hetcomp": ("kang2023heterogeneous",),
}


def bibtex(methods: Iterable[str]) -> str:
    """The papers of these methods, each once, below the methods that it is of."""
    of: dict[str, list[str]] = {}
    for method in methods:
        for key in CITED[method]:
            of.setdefault(key, []).append(method)
    entries = []
    for key, named in of.items():
        kind, fields = PAPERS[key]
        lines = ",\n".join(f"  {field} = {{{value}}}" for field, value in fields.items())
        entries.append(f"% {', '.join(named)}\n@{kind}{{{key},\n{lines}\n}}")
    return "\n\n".join(entries)
