"""A page per method, made of what its docstring says, of its formulas, settings and needs: docs/methods/."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import rankdistill
from rankdistill import functional
from rankdistill.docstrings import as_text, sections
from rankdistill.files import write_text
from rankdistill.methods import (
    GIVEN,
    METHODS,
    OF_A_TEACHER,
    OF_TRAJECTORIES,
    settings_of,
    student_of,
)
from rankdistill.models.kinds import MODELS

MADE = "<!-- made by `rankdistill methods --pages docs/methods` of the docstrings: change those -->"
NEEDED = {
    "rankings": "rankings: its best unseen items of every user, in order",
    "scores": "scores, which rankings hold, or `score(users, items)`",
    "item_rankings": "its best users of every item, made here from its vectors",
    "user_vectors": "a vector of every user",
    "item_vectors": "a vector of every item",
    "checkpoints": "rankings of several moments of its training, of several teachers",
    "model": "the teacher itself, which is trained along",
}
FULL = "rankings with train items among them, made here of its scores"
# Files in tests/golden, numbers of released code (INDEX.md says whose), that tests of this method meet.
GOLDEN = {
    "rrd": "rrd_* rrdclamp80_* rrdccd_* mrrd_* sampler_urrd",
    "ir-rrd": "irrrd_* sampler_ir",
    "rd": "rd_*",
    "cd": "cd_*",
    "dcd": "dcd_*",
    "listwise": "kdce_* listnet2_* listmle_margin_*",
    "unkd": "unkd_*",
    "hint": "fitnet_*",
    "de": "de_* annealing_de",
    "phr": "phr_*",
    "ftd": "ftd_* sim_* pointkd_*",
    "htd": "htd_* htdmasked_*",
    "freqd": "freqd_*",
    "pckd": "cpd_*",
    "bd": "bd_*",
    "concf": "concf_*",
    "rce_kd": "rcekd_*",
    "hetcomp": "hetcomp_*",
}
# Beside the command's own training, where the published one is another.
TRAINING = {
    "concf": " --training.learning_rate 0.01 --training.weight_decay 1e-5 --training.epochs 200",
}


def write_pages(folder: str | Path) -> list[Path]:
    """Writes README.md and a page of every method; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def pages() -> dict[str, str]:
    """Texts by file name."""
    return {"README.md": index()} | {f"{name}.md": page(name) for name in METHODS}


def title_of(name: str) -> tuple[str, str]:
    """A method's full name with its acronym, and what it does."""
    text = sections(METHODS[name].__doc__)[""].split("\n\n")[0]
    title, _, rest = " ".join(text.split()).partition(": ")
    return title, rest[:1].upper() + rest[1:]


def functions_of(name: str) -> list[str]:
    """The pure functions that a method's docstring speaks of, in order."""
    named = re.findall(r"`functional\.(\w+)`", sections(METHODS[name].__doc__)[""])
    return list(dict.fromkeys(named))


def index() -> str:
    rows = []
    for name, method in METHODS.items():
        title, _ = title_of(name)
        needs = ", ".join(sorted(method.needs)).replace("_", " ") or "no teacher"
        source = one_line(sections(method.__doc__)["Source"]).split("; ")[0]
        rows.append(
            f"| [`{name}`]({name}.md) | {title} | {needs} | {method.default_weight:g} | {cut(source)} |"
        )
    return "\n".join(
        (
            MADE,
            "",
            "# Methods",
            "",
            "One page per method of `--method.name`: formula, source, what the paper leaves open, settings, needs, cost.",
            "",
            "| name | method | asks of the teacher | weight | source |",
            "| --- | --- | --- | ---: | --- |",
            *rows,
            "",
        )
    )


def models_table() -> str:
    """The models of the command line as README has them, of their docstrings."""
    rows = ["| name | model | vectors | a batch is | source |", "| --- | --- | --- | --- | --- |"]
    for name, model in MODELS.items():
        parts = sections(model.__doc__)
        title = " ".join(parts[""].split("\n\n")[0].split()).partition(":")[0].rstrip(".")
        biases = [side for side in ("item", "user") if has_bias(model, side)]
        vectors = "yes" if hasattr(model, "item_vectors") else "no, scores alone"
        vectors += f", and {' and '.join(biases)} biases" if biases else ""
        source = one_line(parts["Source"]).split("; ")[0].rstrip(".")
        rows.append(f"| `{name}` | {title}: `{model.__name__}` | {vectors} | {model.batch_by} | {source} |")
    return "\n".join(rows)


def has_bias(model: type, side: str) -> bool:
    """Whether scores have a bias of items or users beside the inner products, as a property or a declared parameter."""
    return hasattr(model, f"{side}_bias") or f"{side}_bias" in inspect.get_annotations(model)


def page(name: str) -> str:
    method, parts = METHODS[name], sections(METHODS[name].__doc__)
    title, summary = title_of(name)
    body = parts[""].split("\n\n")[1:]
    blocks = [
        MADE,
        f"# {title}",
        f"`{name}` on the command line, `rankdistill.{method.__name__}` in Python. {summary}",
        *(as_text(paragraph) for paragraph in body),
        *(block for function in functions_of(name) for block in formula(function)),
        "## Source",
        parts["Source"],
        "## What was open, and which form this is",
        parts["Forms"],
        "## What it needs",
        needs(name),
        "## Settings",
        settings(name),
        "## Weight",
        weight(name),
    ]
    if "Contract" in parts:
        blocks += ["## Contract", parts["Contract"]]
    blocks += ["## Raises", parts["Raises"], "## Cost", parts["Cost"], "## Golden numbers", golden(name)]
    blocks += ["## On the command line", f"```bash\n{command(name)}\n```", steps(name)]
    blocks += ["## In Python", f"```python\n{snippet(name)}\n```"]
    return "\n\n".join(blocks) + "\n"


def formula(function: str) -> list[str]:
    """What a pure function computes: its name and its formulas."""
    body = sections(getattr(functional, function).__doc__)[""].split("\n\n")[1:]
    return [f"`functional.{function}`:", *(as_text(paragraph) for paragraph in body)]


def required(name: str) -> list[str]:
    """A constructor's arguments that are no settings and have no default."""
    parameters = inspect.signature(METHODS[name]).parameters
    return [key for key, p in parameters.items() if key in GIVEN and p.default is inspect.Parameter.empty]


def needs(name: str) -> str:
    full = {"rankings": FULL} if "full_rankings" in required(name) else {}
    wanted = [f"* {(NEEDED | full)[need]}" for need in sorted(METHODS[name].needs)]
    told = [*wanted] or ["* nothing of a teacher"]
    if student_of(name) != "mf":
        told.append(f"* a student of its own kind, `--student.name {student_of(name)}`")
    elif "student_width" in required(name):
        told.append("* of the student vectors of one width, `student_width`")
    if any(key in ("exclude", "train") for key in required(name)):
        told.append("* every user's train items")
    return "\n".join(told)


def settings(name: str) -> str:
    """A table of the settings, their defaults and what they are."""
    told = {}
    for line in re.split(r"\n(?=\S)", sections(METHODS[name].__doc__)["Args"]):
        names, _, meaning = one_line(line).partition(": ")
        told |= dict.fromkeys(names.split(", "), meaning)
    told["form"] = told.get("form", "")
    rows = [
        f"| `{key}` | `{value!r}` | {told.get(key, '').replace('|', chr(92) + '|')} |"
        for key, value in settings_of(name).items()
    ]
    return "\n".join(("| setting | default | meaning |", "| --- | --- | --- |", *rows))


def weight(name: str) -> str:
    method = METHODS[name]
    base = "beside" if method.default_base_weight else "without"
    return f"{method.default_weight:g} by default, {base} the student's own loss."


def golden(name: str) -> str:
    if name not in GOLDEN:
        return "None: tests compare it with the formula written out."
    patterns = ", ".join(f"`{pattern}`" for pattern in GOLDEN[name].split())
    return (
        f"{patterns} in [tests/golden](../../tests/golden/INDEX.md): inputs, losses and gradients of released code (INDEX.md says "
        "whose), which tests meet."
    )


def command(name: str) -> str:
    student = f" --student.name {student_of(name)} --student.width 64" if student_of(name) != "mf" else ""
    return f"rankdistill run --method.name {name}{student}{TRAINING.get(name, '')} --out runs/{name}"


def steps(name: str) -> str:
    """What `rankdistill distill` is given."""
    options = []
    for key in required(name):
        if key == "rankings":
            options.append("--rankings")
        elif key in OF_A_TEACHER:
            options.append("--teacher")
        elif key in OF_TRAJECTORIES:
            options.append("--trajectories")
    told = " and ".join(f"`{option}`" for option in dict.fromkeys(options)) or "no teacher"
    return f"This trains teacher and student; `rankdistill distill` takes a teacher that is there already, by {told}." if options else (
        "This trains a student of its kind without a teacher, beside others to compare it with."
    )  # fmt: skip


def snippet(name: str) -> str:
    """The docstring's example as a program."""
    lines = []
    for line in sections(METHODS[name].__doc__)["Example"].splitlines():
        lines.append(line[4:] if line.startswith((">>> ", "... ")) else f"# {line}")
    own = [line for line in lines if line.startswith("from ")]
    text = "\n".join([*own, ""] * bool(own) + [line for line in lines if line not in own])
    used = sorted(n for n in rankdistill._HOME if re.search(rf"\b{n}\b", text))
    return f"import torch\n\nfrom rankdistill import {', '.join(used)}\n\n{text}"


def one_line(text: str) -> str:
    return " ".join(text.split())


def cut(text: str) -> str:
    """The first sentence of a source."""
    return re.split(r"(?<=\d)\. |(?<=\d)[,;] (?=section)", text)[0].rstrip(".")
