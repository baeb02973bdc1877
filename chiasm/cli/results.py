"""Results as people read them: one function a verb, which prints a sentence, a small table and where the rest is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.console import Table, clock, current, duration, megabytes, new_table, note, print_table, remark, say, some
from chiasm.types import FileOutcome, Outcome

if TYPE_CHECKING:
    from chiasm.report.summary import Summary
    from chiasm.store.add import AddReport
    from chiasm.store.reembed import ReembedReport
    from chiasm.verbs.align import AlignReport
    from chiasm.verbs.compress import CompressReport
    from chiasm.verbs.drift import DriftReport
    from chiasm.verbs.estimate import Estimate
    from chiasm.verbs.evaluate import Evaluation
    from chiasm.verbs.explain import ExplainReport
    from chiasm.verbs.export import ExportReport
    from chiasm.verbs.federate import FederateReport
    from chiasm.verbs.finetune import FinetuneReport
    from chiasm.verbs.fit import FitReport
    from chiasm.verbs.learn import LearnReport
    from chiasm.verbs.predict import PredictReport
    from chiasm.verbs.query import Hit, SearchResult
    from chiasm.verbs.remove import RemoveReport
    from chiasm.verbs.status import Status

LONGEST = 300  # characters of a text that are shown among hits
SHOWN = 20  # files that were not used
_PIECES = 4  # of an answer, by modality


def print_counts(counts: dict[str, Any]) -> None:
    """Print what is recorded now, by kind."""
    numbers = {name: value for name, value in counts.items() if name != "new_labels"}
    say("Recorded. There are now " + ", ".join(f"{name}: {value}" for name, value in numbers.items()))
    for name, words in counts.get("new_labels", {}).items():
        say(f"{name!r} is new: {words}")


def print_add_report(report: AddReport, to: Path) -> None:
    """Print what `add` did: problems first, one line for all duplicates."""
    bad = [row for row in report.outcomes if row.outcome not in {Outcome.DUPLICATE, Outcome.NOT_READ}]
    failed = f"; {len(bad)} could not be used" if bad else ""
    say(
        f"{to} has {report.items} items: {report.encoded} files embedded now, {report.unchanged} unchanged{failed} "
        f"({report.seconds:.1f} s)."
    )
    _print_outcomes(report.outcomes)
    for words in report.notes:
        say(f"  {words}")
    if report.moved:
        say(f"  {report.moved} items moved with their files; what was said about them stays")
    if report.pruned:
        say(f"  {report.pruned} items removed that are not there any more")
    elif report.gone:
        say(
            f"  {len(report.gone)} items are not there any more: {some(report.gone)}. To remove them, run it again with "
            "--prune"
        )
    if report.outside:
        say(
            f"  Files in {some(report.outside)} lie outside of what was named: they are searched, and `chiasm serve` "
            "gives them away only with --root FOLDER"
        )
    remark(f'Next: chiasm search {to} "..."')


def print_estimate(cost: Estimate) -> None:
    """Print what `add` would cost."""
    stored = f"; {cost.stored:,} are stored and unchanged" if cost.stored else ""
    say(f"{cost.items:,} items, {cost.files:,} files to embed{stored}.")
    if cost.files:
        say(
            f"About {duration(cost.seconds)} (standard error {duration(cost.error)}) on this machine, and {megabytes(cost.bytes)} "
            f"on disk, by {cost.tried} of the files: {_counts(cost.outcomes)}."
        )


def print_status(report: Status) -> None:
    """Print what a collection holds, what changed last and what to do next."""
    embedded = ", ".join(f"{count:,} {modality}" for modality, count in sorted(report.embeddings.items()))
    say(f"{report.path}: {report.items:,} items; embedded: {embedded or 'nothing'}; {megabytes(report.size)} on disk.")
    table = new_table("", "")
    table.add_row("changed last", report.changed)
    table.add_row("encoder", report.encoder)
    for model in report.models:
        table.add_row("  model", _model_words(model))
    for modality, cosine in sorted(report.int8.items()):
        table.add_row("  int8", f"{modality}: mean cosine {cosine:.3f} to float32")
    table.add_row("files", _counts(report.outcomes) or "none")
    table.add_row("columns", ", ".join(report.columns) or "none")
    table.add_row("spaces", f"{', '.join(report.spaces) or 'none'} (search uses the last)")
    table.add_row("roots", f"{', '.join(report.roots) or 'none'} (their files are given away by serve)")
    print_table(table)
    for words in (*report.notes, *report.private):
        say(f"  {words}")
    remark(f"Next: {report.advice}")


def _model_words(model: Mapping[str, Any]) -> str:
    """Return the modalities, licence and size of a model in a line."""
    licence = f"{model['licence']} ({model['licence_from']})" if model["licence"] else "licence unknown"
    numbers = [
        f"{model[name] / 1e6:.1f} {unit}"
        for name, unit in (("parameters", "million parameters"), ("size", "MB"))
        if model[name] is not None
    ]
    return ", ".join([f"{model['name']} for {', '.join(model['modalities'])}: {licence}", *numbers])


def print_compress_report(report: CompressReport) -> None:
    """Print all forms of a network beside each other."""
    small = report.small
    say(
        f"{report.encoder}: the network of {report.modality} is {small.speed:.2f} times as fast; the mean cosine to the whole one is "
        f"{small.cosine:.3f} on {report.held_out} held-out items."
    )
    table = new_table("form", "MB", "times as fast", "cosine", "lowest", "macro-F1")
    for form in report.forms:
        numbers = (form.megabytes, form.speed, form.cosine, form.lowest, form.f1_macro)
        table.add_row(form.name, *map(_decimal, numbers))
    print_table(table)
    remark(f"Next: chiasm reembed COLLECTION --encoder {report.encoder}; in 8-bit integers: {report.encoder},int8")


def print_export_report(report: ExportReport) -> None:
    """Print what was written where, and what was not."""
    if report.size is not None:
        say(f"{report.path}: {report.size / 1e6:.1f} MB, runs without chiasm, {report.notes[0]}")
        for note in report.notes[1:]:
            say(f"  {note}")
        return
    copied = f", {report.files} files copied" if report.files else ""
    say(f"{report.items} items{copied} as {report.format}: {report.path}")
    _print_outcomes(report.outcomes)


def print_reembed_report(report: ReembedReport, collection: Path) -> None:
    """Print what another encoder took over, and what has to be trained again."""
    if report.before == report.encoder:
        say(f"{collection} has the encoder {report.encoder} already: there is nothing to do")
        return
    say(
        f"{collection}: {report.encoder} has replaced {report.before}. Files: {_counts(report.counts)}; {report.encoded} "
        f"embedded now, {report.reused} reuse an embedding, in {report.seconds:.1f} s."
    )
    for modality, count in sorted(report.not_taken.items()):
        say(f"  {count} of {modality}: {report.encoder} does not take {modality}")
    if report.lost:
        say(f"  {report.lost} files that search could find before have no embedding now")
    _print_outcomes([row for row in report.outcomes if row.outcome not in {Outcome.DUPLICATE, Outcome.UNSUPPORTED}])
    for words in report.notes:
        say(f"  {words}")
    if report.spaces:
        say(
            f"Spaces learned with {report.before} are out of use: {', '.join(report.spaces)}. Next: chiasm align {collection}"
        )
    say(f"Models trained with {report.before} must be trained again: chiasm fit {collection}")


def print_federate_report(report: FederateReport) -> None:
    """Print what a step of a round wrote, and who gets it."""
    match report.step:
        case "keys":
            say(f"{report.out} goes to all other parties; the key stays here.")
        case "mask" | "reveal":
            say(
                f"{report.out} goes to the coordinator: {report.parties} parties, {report.dropped} of them dropped out."
            )
        case _:
            say(
                f"{report.out} has the sum of {report.parties - report.dropped} parties, {report.items} items; {report.dropped} dropped out."
            )


def print_remove_report(collection: Path, ids: Sequence[str], forgotten: RemoveReport | None, *, dry_run: bool) -> None:
    """Print what is gone, and of what is forgotten, what has to be learned again."""
    words = "would be removed" if dry_run else "removed"
    say(f"{len(ids)} items {words} from {collection}" + (f": {some(ids)}" if ids else ""))
    if forgotten is None:
        return
    say(f"They are forgotten, with {forgotten.ratings} ratings of them.")
    if forgotten.spaces:
        say(
            f"Spaces that learned from them are deleted: {', '.join(forgotten.spaces)}. Next: chiasm align {collection}"
        )
    for model, count in forgotten.models.items():
        say(f"{model} learned from {count} of them. It keeps no item any more, but its weights do: chiasm fit, again")
    say(forgotten.untouched)


def print_search_result(result: SearchResult) -> None:
    """Print how many hits are good, and a table of them, best first; or that nothing was found."""
    for words in result.notes:
        note(f"Note: {words}.")
    if not result.hits:
        say("Nothing found.")
        return
    bands = Counter(hit.band for hit in result.hits)
    if result.found is False and result.threshold is not None:
        say(
            f"Probably nothing: no hit reaches the probability of {result.threshold:.3g} that the best hit of 97.5 % of the "
            "answerable queries reaches. --min-probability auto leaves such hits out."
        )
    elif result.found:
        say(
            ", ".join(f"{bands[band]} {band}" for band in ("good", "possible", "unlikely") if bands[band])
            + f" of {len(result.hits)} hits."
        )
    judged = result.threshold is not None
    table = new_table(*(("", "probability") if judged else ("score",)), "", "id", "words or file")
    for hit in result.hits:
        known = (hit.band or "", _decimal(hit.probability)) if judged else (f"{hit.score:.3f}",)
        table.add_row(*known, hit.modality, hit.id, _content(hit))
    print_table(table)


def _content(hit: Hit) -> str:
    """Return what a hit shows: of a text its words, else its file; of a moment where it is."""
    words = hit.text
    if hit.modality == "text" and words is None and hit.path is not None:
        from chiasm.media import words_of

        words = words_of(hit.path)
    if hit.modality == "text" and words is not None:
        return " ".join(filter(None, (_span(hit), _shortened(words))))
    return " ".join(filter(None, (hit.path, _span(hit), _shortened(words or "") if hit.start is not None else "")))


def _shortened(text: str) -> str:
    """Return the beginning of a text, as much of it as a cell of a table holds."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "\u2026"


def _span(hit: Hit) -> str:
    """Return where in its file a hit was found; empty for the whole file."""
    if hit.start is None or hit.end is None:
        return ""
    if hit.modality == "text":
        return f"characters {hit.start:,.0f} to {hit.end:,.0f}:"
    return f"[{clock(hit.start)} to {clock(hit.end)}]"


def print_align_report(report: AlignReport, collection: Path, sources: Sequence[Path] | None) -> None:
    """Print what alignment is worth on held-out pairs, and what it learned from."""
    from chiasm.report.summary import search_summary

    named = " and ".join(map(str, sources or ()))
    say(search_summary({**report.after, "before": report.before}).sentence or "Nothing could be measured.")
    measured = dict.fromkeys(part.measured for part in report.aligned.values())
    say(f"Measured on {', '.join(measured)}:")
    print_table(_retrieval_table({"before": report.before, "after": report.after}))
    for modality, part in report.aligned.items():
        where = f"{part.pairs} pairs of {collection}" if part.pairs else f"{part.source_pairs} pairs of {named} alone"
        say(f"Space {report.space!r}: {modality} aligned on {where} by {part.method}.")
        if part.pairs and part.source_pairs:
            say(f"  with {part.source_pairs} pairs of {named} at weight alpha = {part.alpha:.2f}")
        if part.blend == 0 and part.method != "none":
            say("  No learned map was better than the start, so the space stays as it was.")
    for direction, scores in report.scores.items() if current().verbose else ():
        if "answered" in scores:
            say(
                f"Probabilities of {direction.replace('_', ' ')}: off by {scores['calibration_error']:.3f} on average; of "
                f"queries about things that are not there, {100 * scores['answered']['foreign']:.0f} % still get an answer"
            )
    remark(f'Next: chiasm search {collection} "...", or chiasm evaluate {collection} --report search.html')


def print_fit_report(report: FitReport, written: Path | None) -> None:
    """Print how good the recogniser is on items it was not trained on, and the choices that were made."""
    if report.privacy:
        _print_private_fit(report)
        return
    if report.metrics:
        _print_recognition(report.metrics)
    target = (
        f"{len(report.classes)} classes of {report.label!r}" if report.chosen.get("kind") == "classes" else report.label
    )
    say(f"Measured on {report.measured}.")
    say(f"{report.model}: {target} from {', '.join(report.modalities)}, trained on {report.items} items")
    if report.chosen.get("kind") == "classes":
        say(f"Adapter: {report.chosen['rung']}; fusion: {report.chosen['fusion']}")
    for name, words in report.unknown_classes.items():
        say(f"The source has a class {name!r} that the target lacks: {words}, left out")
    adaptation = (report.chosen.get("adaptation") or {}).get("sentence")
    for sentence in (adaptation, report.chosen.get("source"), report.chosen.get("semi"), report.duplicates):
        if sentence:
            say(sentence)
    for sentence in report.finetuned:
        say(sentence)
    if report.encoder:
        say(f"Encoder: {report.encoder}")
    if "tuning" in report.also:
        say(report.also["tuning"]["warning"])
    if "learning-curve" in report.also:
        table = new_table("shots", "macro-F1", "95 % interval")
        for point in report.also["learning-curve"]["points"]:
            score = point["f1_macro"]
            table.add_row(str(point["shots"]), _decimal(score["estimate"]), _interval((score["low"], score["high"])))
        print_table(table)
    _name_the_rest(written)
    remark(f"Next: chiasm predict {report.model} FILES")


def _print_private_fit(report: FitReport) -> None:
    """Print what was promised, and what has been spent of the collection."""
    from chiasm.verbs.card import sentence_of

    say(f"{report.model}: {len(report.classes)} classes of {report.label!r}, trained on {report.items} items.")
    say(sentence_of(report.privacy))
    for line in report.privacy["spent"]:
        say(f"The collection has {line}.")
    say(f"Measured on {report.measured}.")
    remark(f"Next: chiasm predict {report.model} FILES")


def _print_recognition(metrics: dict[str, Any], *, unseen: bool = True) -> None:
    """Print a sentence, and three numbers against chance; all of them where all is to be said."""
    from chiasm.report.summary import recognition_summary

    summary = recognition_summary(metrics, unseen=unseen)
    say(summary.sentence)
    if current().verbose or not summary.figures:
        _print_metrics(metrics)
    else:
        _print_figures(summary)
    if summary.advice:
        say(summary.advice)


def _print_figures(summary: Summary) -> None:
    table = new_table("metric", "value", "95 % interval", "guessing")
    for one in summary.figures:
        ends = "" if one.ends is None else _interval(one.ends)
        table.add_row(one.name, _decimal(one.estimate), ends, _decimal(one.chance))
    print_table(table)


def _name_the_rest(written: Path | None) -> None:
    """Say where all numbers are."""
    if written is not None:
        remark(f"Report: {written}")
    elif not current().verbose:
        remark("All numbers: --verbose, --json, or --report FILE.html with pictures of the mistakes.")


def print_finetune_report(report: FinetuneReport, collection: Path, written: Path | None) -> None:
    """Print how well each network recognises, or pairs find each other, before and after, and what was written."""
    table = new_table("", "column", "macro-F1", "accuracy", "R²", "loss")
    for part in report.parts:
        for column, name, *numbers in part.rows:
            table.add_row(f"{part.modality}, {name}", column, *map(_decimal, numbers))
        if part.left_out:
            say(f"{part.left_out} items were left out: their {part.modality} cannot be opened")
    if report.parts:
        print_table(table)
    if report.pairs is not None:
        pairs = report.pairs
        table = new_table("hit@10 of held-out pairs", "frozen, aligned", "fine-tuned, aligned")
        for name in pairs.frozen:
            table.add_row(name.replace("_", " "), _decimal(pairs.frozen[name]), _decimal(pairs.tuned[name]))
        if pairs.left_out:
            say(f"{pairs.left_out} pairs were left out: a file of theirs cannot be opened")
        print_table(table)
    if report.encoder:
        say(f"Encoder: {report.encoder}")
        remark(f"Next: chiasm reembed {collection} --encoder {report.encoder}")
        if report.pairs is not None:
            remark(f"Then: chiasm align {collection} --pairs {','.join(report.pairs.modalities)}")
    if written is not None:
        remark(f"Report: {written}")


def print_predictions(report: PredictReport) -> None:
    """Print how many items were recognised, a table of them, then the files that could not be used."""
    unknown = sum(row.unknown for row in report.predictions)
    lost = sum(row.label is None for row in report.predictions)
    parts = [f"{len(report.predictions) - unknown - lost} of {len(report.predictions)} items recognised"]
    parts += [f"{unknown} are like nothing that the model knows"] * bool(unknown)
    parts += [f"{lost} have nothing that can be used"] * bool(lost)
    say("; ".join(parts) + ".")
    table = new_table("probability", "label", "set", "from", "id")
    for row in report.predictions:
        label = "(nothing usable)" if row.label is None else f"unknown, like {row.label}" if row.unknown else row.label
        others = ", ".join(row.set) if len(row.set) <= 4 else f"{len(row.set)} classes"
        table.add_row(_decimal(row.probability), label, others, ", ".join(row.modalities), row.id)
    print_table(table)
    _print_outcomes(report.outcomes)


def print_evaluation(result: Evaluation, written: Path | None) -> None:
    """Print how good a space or a model is."""
    searched = {"by_modality", "nothing_found", "moments"} & result.metrics.keys()
    for words in result.notes:
        say(f"{_first_large(words)}.")
    if searched:
        from chiasm.report.summary import search_summary

        summary = search_summary(result.metrics)
        if summary.sentence:
            say(summary.sentence)
        say(f"{_first_large(result.what)}, on {result.measured}:")
        if summary.figures and not current().verbose:
            _print_figures(summary)
        _print_search_metrics(result.metrics)
        if summary.advice:
            say(summary.advice)
    else:
        _print_recognition(result.metrics, unseen=not result.seen)
        say(f"{_first_large(result.what)}, on {result.measured}.")
        for name, words in result.unknown_classes.items():
            say(f"The model does not know the class {name!r}: {words}, always wrong.")
        if "against" in result.metrics:
            _print_comparison(result.metrics["against"])
    _name_the_rest(written)


def print_learn_report(report: LearnReport) -> None:
    """Print whether the new model is better, and what it was learned from."""
    say(f"{'The new model replaces the old one' if report.switched else 'The old model stays'}: {report.why}.")
    if report.columns:
        table = new_table("column", "measure", "before", "now", "difference", "95 % interval")
        for column in report.columns:
            numbers = (_decimal(column.old), _decimal(column.new), f"{column.difference:+.3f}")
            table.add_row(column.column, column.score, *numbers, _interval(column.interval, signed=True))
        print_table(table)
    say(
        f"{report.corrections} items with corrected labels ({report.overruled} differ from the collection's), {report.items} "
        f"trained on; compared on {report.compared}"
    )
    if report.classes_added:
        say(f"Classes that are new: {', '.join(report.classes_added)}")
    if report.classes_gone:
        say(f"Classes that have no items any more: {', '.join(report.classes_gone)}")
    for name, missing in report.waiting.items():
        say(f"Class {name!r} is not known yet, and needs {missing} more examples")


def print_drift_report(report: DriftReport) -> None:
    """Print whether new items lie where the training items do, and how far off."""
    say(f"{report.sentence[0].upper()}{report.sentence[1:]}.")
    for warning in report.warnings:
        say(f"Warning: {warning}")
    for modality, drift in report.modalities.items():
        say(f"  {modality}: MMD p = {drift.p_value:.3f}, PSI {drift.psi:.2f}")
    for modality, count in report.too_few.items():
        say(f"  {modality}: {count} items are too few to tell")


def print_explanations(report: ExplainReport, written: Path | None) -> None:
    """Print what each prediction rests on, and how far that can be believed."""
    from chiasm.report.reasons import summary_of

    for one in report.explanations[:SHOWN]:
        say(f"{one.id}: {one.answer}" + ("" if one.probability is None else f" ({one.probability:.2f})"))
        if len(one.modalities) > 1:
            before = "" if one.prior is None else f", before both {one.prior:+.2f}"
            say(f"  of {one.evidence:+.2f}: {_weights(one.modalities)}{before}")
        for medium in one.media:
            words = f"not explained, {medium.note}" if medium.method is None else summary_of(medium)
            say(f"  {medium.modality}: {words}")
        for title, sign in (("for", 1), ("against", -1)):
            examples = [f"{row.id} ({row.label}) {row.weight:+.2f}" for row in one.examples if row.weight * sign > 0]
            if examples:
                say(f"  learned from, {title}: {', '.join(examples)}")
    if len(report.explanations) > SHOWN:
        say(f"{len(report.explanations) - SHOWN} more: --json has all of them.")
    for answer in report.classes:
        say(f"{answer.answer} ({answer.items} items)")
        if answer.uses:
            say(f"  more than in other items: {_weights(answer.uses)}")
        if answer.words:
            say(f"  words: {_weights({one.word: one.weight for one in answer.words})}")
        for modality in dict.fromkeys(piece.modality for piece in answer.pieces):
            pieces = [one for one in answer.pieces if one.modality == modality][:_PIECES]
            say(f"  {modality}: {', '.join(f'{one.id} {one.reason.piece} {one.reason.weight:+.2f}' for one in pieces)}")
    if report.twin is not None:
        say(f"{report.twin.sentence}.")
        for name, rule in report.twin.rules.items():
            say(f"  {name}: {_weights(rule) or 'no concept'}")
    if report.faithfulness:
        say(f"What hiding a part of a medium makes of the answer, on {report.measured}:")
        table = new_table(
            "medium", "hidden", "nothing", "strongest", "random", "weakest", "gap", "deletion", "insertion", "items"
        )
        for name, own in report.faithfulness.items():
            curves = own.curves
            areas = (
                (own.gap, own.standard_error), (curves.deletion, curves.deletion_error),
                (curves.insertion, curves.insertion_error),
            )  # fmt: skip
            numbers = map(_decimal, (own.whole, own.strongest, own.random, own.weakest))
            table.add_row(
                name,
                f"{own.share:.0%}",
                *numbers,
                *(f"{area:.3f} ± {error:.3f}" for area, error in areas),
                str(own.items),
            )
        print_table(table)
    for words in report.notes:
        say(f"{_first_large(words)}.")
    _print_outcomes(report.outcomes)
    if written is not None:
        remark(f"Report: {written}")


def _weights(weights: Mapping[Any, float]) -> str:
    return ", ".join(f"{name} {weight:+.2f}" for name, weight in weights.items())


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _print_outcomes(outcomes: Sequence[FileOutcome]) -> None:
    """Print files that were not used: problems one by one, what was left out on purpose a line for each reason."""
    aside = {Outcome.DUPLICATE, Outcome.NOT_READ}
    bad = [row for row in outcomes if row.outcome not in aside]
    most = len(bad) if current().verbose else SHOWN
    for row in bad[:most]:
        say(f"  {row.outcome}: {row.path}: {row.reason}")
    if len(bad) > most:
        say(f"  and {len(bad) - most} more (--verbose shows all)")
    copies = [row for row in outcomes if row.outcome is Outcome.DUPLICATE]
    if copies and current().verbose:
        for row in copies:
            say(f"  duplicate: {row.path}: {row.reason}")
    elif copies:
        others = "" if len(copies) == 1 else f" and {len(copies) - 1} more"
        say(f"  duplicate: {copies[0].path}{others}: found as well as the others, from one embedding")
    beside: dict[str, list[str]] = {}  # paths by reason
    for row in outcomes:
        if row.outcome is Outcome.NOT_READ:
            beside.setdefault(row.reason, []).append(row.path)
    for reason, paths in beside.items():
        others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        say(f"  not read: {paths[0]}{others}: {reason}")


def _retrieval_table(results: dict[str, dict[str, dict[str, float]]]) -> Table:
    shown = ("hit@1", "hit@5", "hit@10", "mrr", "median_rank")
    table = new_table("", "direction", *shown)
    for when, directions in results.items():
        for direction, metrics in directions.items():
            if shown[0] not in metrics:
                continue
            table.add_row(when, direction.replace("_", " "), *(f"{metrics[name]:.3f}" for name in shown))
    return table


def _print_search_metrics(metrics: dict[str, Any]) -> None:
    """Print search metrics under the names that they have in the JSON document."""
    directions = {name: part for name, part in metrics.items() if "hit@1" in part and "intervals" in part}
    if directions and current().verbose:
        _print_directions(directions, metrics.get("before", {}), metrics.get("gain", {}))
        say("In a gallery of both (favour 1: neither is put first):")
        table = new_table("query", "finds", "recall@10", "favour")
        for query, targets in metrics["by_modality"].items():
            for target, part in targets.items():
                table.add_row(query, target, _decimal(part["recall"]), _decimal(part["favour"]))
        print_table(table)
    if "nothing_found" in metrics:
        found = metrics["nothing_found"]
        say(
            f"When nothing fits ({found['searched']} files; least probability {found['threshold']:.3f}; probabilities are off by "
            f"{found['relevance']['calibration_error']:.3f} on average):"
        )
        table = new_table("questions", "number", "get an answer", "95 % interval")
        for name, number, share in (
            ("with an answer", found["answerable"], found["answered"]),
            ("without (false hits)", found["off_topic"], found["false_hits"]),
        ):
            table.add_row(name, str(number), _decimal(share["estimate"]), _interval((share["low"], share["high"])))
        print_table(table)
    if "moments" in metrics:
        say("Moments (IoU: what is in both by what is in either):")
        _print_metrics(metrics["moments"])


def _print_directions(
    directions: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]], gain: dict[str, dict[str, Any]]
) -> None:
    """Print one column a direction, or one table a direction if there is a space to compare with."""
    names = [name for name in next(iter(directions.values())) if name not in {"intervals", "queries"}]

    def with_ends(part: dict[str, Any], name: str) -> str:
        ends = part["intervals"].get(name)
        return f"{part[name]:.3f}" + ("" if ends is None else f"  {_interval(ends)}")

    if not before:
        table = new_table("metric", *(f"{name.replace('_', ' ')} (95 % interval)" for name in directions))
        for name in names:
            table.add_row(name.replace("_", " "), *(with_ends(part, name) for part in directions.values()))
        print_table(table)
        return
    for direction, part in directions.items():
        table = new_table(
            direction.replace("_", " "), "start", "now (95 % interval)", "difference (95 % interval)", "p"
        )
        for name in names:
            old, paired = before[direction][name], gain.get(direction, {}).get(name)
            change = f"{part[name] - old:+.3f}"
            if paired is not None:
                change += f"  {_interval((paired['interval']['low'], paired['interval']['high']), signed=True)}"
            chance = "" if paired is None else f"{paired['p_value']:.3f}"
            table.add_row(name.replace("_", " "), f"{old:.3f}", with_ends(part, name), change, chance)
        print_table(table)


def _first_large(text: str) -> str:
    return text[:1].upper() + text[1:]


def _decimal(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _interval(ends: Sequence[float], *, signed: bool = False) -> str:
    low, high = (f"{end:+.3f}" if signed else f"{end:.3f}" for end in ends)
    return f"{low} to {high}"


def _print_metrics(metrics: dict[str, Any]) -> None:
    for column, of_column in metrics.get("columns", {}).items():
        say(f"{column}:")
        _print_metrics(of_column)
    if "columns" in metrics:
        return
    table = new_table("metric", "value", "95 % interval")
    for name, value in metrics.items():
        if isinstance(value, float):
            ends = metrics.get("intervals", {}).get(name)
            table.add_row(
                name.replace("_", " "), f"{value:.3f}", "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            )
    print_table(table)


def _print_comparison(against: dict[str, Any]) -> None:
    table = new_table("metric", "this", Path(against["model"]).name, "difference", "standard error", "p")
    for name, part in against["metrics"].items():
        numbers = (part[key] for key in ("this", "other", "difference", "standard_error", "p_value"))
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    print_table(table)
