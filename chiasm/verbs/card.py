"""The card of a model: what it is, what it was measured on, and how it is used, for people and for hubs.

Markdown with a head of YAML, as the Hugging Face hub reads it (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chiasm import __version__
from chiasm.encoders.licence import PretrainedModel

_MOST_CLASSES = 50
_PIPELINES = {"image": "image-classification", "text": "text-classification", "audio": "audio-classification", "video": "video-classification"}  # fmt: skip


_IN_PYTHON = """```python
import chiasm

model = chiasm.SavedModel.from_pretrained("THIS_REPOSITORY")
print(model.predict(["a.jpg"]).labels)
```"""


def model_card(
    report: Mapping[str, Any], encoder: str, pretrained: Sequence[PretrainedModel], *, use: str = _IN_PYTHON
) -> str:
    """Return the card of a model.

    Args:
        report: what `fit` found out, see `chiasm.verbs.fit.FitReport.as_dict`.
        encoder: name of the encoder.
        pretrained: the networks that it runs.
        use: how it is used, in Markdown.
    """
    modalities, classes = list(report.get("modalities", ())), [*map(str, report.get("classes", ()))]
    label = str(report.get("label", ""))
    numbers = numbers_of(report.get("metrics") or {})
    licences = sorted({one.licence for one in pretrained if one.licence})
    head: dict[str, Any] = {"library_name": "chiasm", "tags": ["chiasm", "few-shot", *modalities]}
    if len(modalities) == 1 and classes:
        head["pipeline_tag"] = _PIPELINES[modalities[0]]
    if len(licences) == 1:
        head["license"] = licences[0].lower()
    lines = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    lines += [f"# Recognises {label!r}", ""]
    what = f"{len(classes)} classes of {label!r}" if classes else f"{label!r}"
    lines += [
        (
            f"A model of [chiasm](https://pypi.org/project/chiasm/) {__version__}: {what} from {', '.join(modalities) or 'nothing'}, "
            f"learned from {report.get('items', 0)} items on the frozen embeddings of `{encoder}`."
        ),
        "",
    ]
    if classes:
        more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
        lines += ["Classes: " + ", ".join(classes[:_MOST_CLASSES]) + more + ".", ""]
    lines += ["## Use", "", use, ""]
    privacy = report.get("privacy") or {}
    if privacy:
        lines += ["## Differential privacy", "", sentence_of(privacy), ""]
    lines += ["## Measured", "", f"On {report.get('measured', 'nothing')}.", ""]
    if numbers:
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in numbers), ""]
    if report.get("duplicates"):
        lines += [f"{report['duplicates']}", ""]
    if pretrained:
        lines += ["## Pretrained networks", "", "| network | for | licence |", "|---|---|---|"]
        lines += [f"| {one.name} | {', '.join(one.modalities)} | {one.licence or 'unknown'} |" for one in pretrained]
        lines.append("")
    lines += [
        "## Limits",
        "",
        (
            "The numbers hold for items like those that it was measured on. What looks like none of its classes is told as `unknown` "
            "at a rate of false alarms that is asked for; what people do with its answers was not measured. "
            + (
                "The folder holds nothing of the items that it learned from."
                if privacy
                else "The folder holds embeddings of some of the items that it learned from, and the ids of all."
            )
        ),
        "",
    ]
    return "\n".join(lines)


def sentence_of(privacy: Mapping[str, Any]) -> str:
    """Return what was promised to the items that a model learned from, see `chiasm.verbs.private`."""
    unit = privacy["unit"] if privacy["unit"] == "item" else f"value of {privacy['unit']!r}"
    return (
        f"Epsilon {privacy['epsilon']:g} at delta {privacy['delta']:g} for each {unit} ({privacy['units']} of them): "
        f"{privacy['mechanism']}. Public are {privacy['public']}."
    )


def numbers_of(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the metrics that are one number, with their interval where there is one."""
    shown = []
    for name, value in metrics.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = (metrics.get("intervals") or {}).get(name, (None, None)) or (None, None)
            interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
            shown.append((name.replace("_", " "), f"{value:.3f}{interval}"))
    return shown
