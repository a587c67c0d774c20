"""What a MAP asks of a study, by the labels of its image, and what it is given of it: judged before it runs.

Here belongs choosing: which series, which images of them, in which order, or the name under which the study is refused. What a stack is,
is in ``stack``; what is evened out in the copies that are given, in ``repairs``. An image without labels asks for nothing and is given
every image. docs/study-contract.md is the page for people.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pydicom

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake import series_words
from monai_aws_pipeline.host_agent.intake.dicom import Instance, Study, class_name
from monai_aws_pipeline.host_agent.intake.pixel_types import check_pixel_types
from monai_aws_pipeline.host_agent.intake.stack import NoStackError, Stack, size_of, stack_of, summary, wanted_images
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES, Rules, matches, rules_in
from monai_aws_pipeline.maps.spec.study_contract import Handles, SeriesChoice, StudyContract, contract_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What an application is given of a study, in this order. ``stacks``: those that were judged as volumes.

    ``selection``: for each series of images what it is, and why it was given or not. ``passed_over``: objects that are no image, by kind.
    """

    instances: tuple[Instance, ...]
    stacks: tuple[Stack, ...] = ()
    selection: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MapRequirements:
    """Selection rules of the SDK, none where they are not known, and the application's study contract."""

    rules: Rules
    contract: StudyContract

    def requiring_volume(self) -> MapRequirements:
        """The same for a deployment whose settings ask for a volume whatever the MAP says."""
        return replace(self, contract=replace(self.contract, volume=True))

    def give(self, study: Study) -> Given:
        """Choose what the application is given. ``study``: its instances where they lie now. Raises RefusedError."""
        companions = () if self.contract.companions else study.companions
        passed_over = dict(sorted(Counter(kind_of(item) for item in companions).items()))
        if not study.instances and not self.contract.companions:
            found = ", ".join(f"{count} {kind}" for kind, count in passed_over.items())
            raise RefusedError(Code.NO_IMAGES, f"The study holds no image ({found or 'nothing'}).")
        given = self._stacks(study) if self.contract.volume else self._everything(study)
        self._check_syntaxes(given.instances)
        kept = study.companions if self.contract.companions else ()
        return replace(given, instances=(*given.instances, *kept), passed_over=passed_over)

    # -- without a volume ---------------------------------------------------------------------------------------------------

    def _everything(self, study: Study) -> Given:
        """Every image, of whatever series: the application chooses."""
        if self.rules and self._candidates(study.series_of_images()) == []:
            raise self._no_match(study)
        selection = tuple(f"{summary(images)}: given" for images in study.series_of_images().values())
        return Given(study.instances, (), selection)

    # -- volumes ------------------------------------------------------------------------------------------------------------

    def _stacks(self, study: Study) -> Given:
        """One stack a series, of the series that the rules take: the largest for each rule, or all."""
        series = study.series_of_images()
        candidates = self._candidates(series)
        if candidates == []:
            raise self._no_match(study)
        if candidates is None:
            return self._without_rules(series)
        if self.contract.series is SeriesChoice.ALL:
            chosen = list(dict.fromkeys(uid for each in candidates for uid in each))
            return self._all_of(series, chosen)
        reasons: dict[str, str] = {}
        for each in candidates:
            reasons[self._largest(series, each)] = _why(len(each))
        stacks = {uid: self._stack(series[uid]) for uid in reasons}
        taken = {uid for each in candidates for uid in each}
        return _given(
            series,
            stacks,
            lambda uid: reasons.get(uid) or ("the rules take it, and another fits better" if uid in taken else "the rules do not take it"),
        )

    def _largest(self, series: Mapping[str, Sequence[Instance]], candidates: Sequence[str]) -> str:
        """The candidate with the most planes; classic images before a multi-frame twin of as many. Raises RefusedError where two tie."""
        sizes = {uid: self._size(series[uid]) for uid in candidates}
        best = max(sizes.values())
        first = [uid for uid in candidates if sizes[uid] == best]
        if best[0] >= self.contract.min_slices and len(first) > 1:
            each = f"{best[0]} planes each"
            raise RefusedError(
                Code.AMBIGUOUS_SERIES, f"{len(first)} series fit the application equally well ({summary(series[first[0]])}, {each})."
            )
        return first[0]

    def _size(self, images: Sequence[Instance]) -> tuple[int, int]:
        wanted = wanted_images(images, self.contract)
        return size_of(wanted), -sum(image.header.frames > 1 for image in wanted[:1])

    def _stack(self, images: Sequence[Instance]) -> Stack:
        stack = stack_of(images, self.contract)
        if self.contract.sdk_volume and Handles.PIXEL_TYPE not in self.contract.handles:
            check_pixel_types(stack.instances)
        if self.contract.sdk_volume and Handles.NON_SQUARE not in self.contract.handles:
            _check_square(stack.instances)
        return stack

    def _all_of(self, series: Mapping[str, Sequence[Instance]], chosen: Sequence[str]) -> Given:
        """Every series of the chosen that is a stack. Images that are none because they are a localizer are passed over."""
        stacks: dict[str, Stack] = {}
        scouts: dict[str, NoStackError] = {}
        for uid in chosen:
            try:
                stacks[uid] = self._stack(series[uid])
            except NoStackError as error:
                if not error.scout:
                    raise
                scouts[uid] = error
        if not stacks:
            raise max(scouts.items(), key=lambda item: size_of(series[item[0]]))[1]
        return _given(
            series, stacks, lambda uid: "" if uid in stacks else "no stack of planes" if uid in scouts else "the rules do not take it"
        )

    def _without_rules(self, series: Mapping[str, Sequence[Instance]]) -> Given:
        """Rules that are put together by code are not known here: every series must be a stack, as any of them may be taken."""
        return self._all_of(series, list(series))

    # -- rules --------------------------------------------------------------------------------------------------------------

    def _candidates(self, series: Mapping[str, Sequence[Instance]]) -> list[list[str]] | None:
        """For each rule that takes any, the series that it takes; None where rules are not known or cannot be decided."""
        if not self.rules:
            return None
        taken: defaultdict[int, list[str]] = defaultdict(list)
        try:
            for uid, images in series.items():
                header = pydicom.dcmread(series_words.usual(images).path, stop_before_pixels=True)
                for number, (_, conditions) in enumerate(self.rules):
                    if matches(conditions, header):
                        taken[number].append(uid)
        except Exception as error:  # rules and header are both somebody else's; its text may quote a value
            log.info("the MAP's series rules cannot be decided for this study (%s); the MAP decides", error.__class__.__name__)
            return None
        return [taken[number] for number in sorted(taken)]

    def _no_match(self, study: Study) -> RefusedError:
        series = study.series_of_images()
        return RefusedError(
            Code.NO_MATCHING_SERIES,
            f"None of the {len(series)} series of the study is one that the application's rules select. "
            f"Found: {series_words.found(series.values(), self.rules) or 'no image'}. Wanted: {series_words.wanted(self.rules)}.",
        )

    def _check_syntaxes(self, images: Sequence[Instance]) -> None:
        """Refuse a way of writing pixels that the application has no decoder for."""
        if self.contract.syntaxes is None:
            return
        unknown = Counter(image.header.syntax for image in images if image.header.syntax not in self.contract.syntaxes)
        if unknown:
            syntax, count = unknown.most_common(1)[0]
            raise RefusedError(Code.TRANSFER_SYNTAX, f"{count} of {len(images)} images are written in {_syntax_name(syntax)}.")


NO_REQUIREMENTS: Final = MapRequirements([], StudyContract())


def requirements_of(labels: Mapping[str, str]) -> MapRequirements:
    """What the labels of an image say."""
    return MapRequirements(rules_in(labels.get(LABEL_RULES, "")), contract_of(labels))


def kind_of(item: Instance) -> str:
    """What an object that is no image is, by the name of its SOP class."""
    return class_name(item.sop_class) or "object of a class that is not DICOM's own"


def _given(series: Mapping[str, Sequence[Instance]], stacks: Mapping[str, Stack], why: Callable[[str], str]) -> Given:
    selection = []
    for uid, images in series.items():
        if stack := stacks.get(uid):
            reason = why(uid)
            less = f", {stack.doubled} equal images left out" if stack.doubled else ""
            count = f"{stack.planes} planes {stack.step:.4g} mm apart"
            selection.append(f"{summary(images)}: given as {count}{less}{f' ({reason})' if reason else ''}")
        else:
            selection.append(f"{summary(images)}: not given ({why(uid)})")
    instances = tuple(instance for stack in stacks.values() for instance in stack.instances)
    return Given(instances, tuple(stacks.values()), tuple(selection))


def _check_square(images: Sequence[Instance]) -> None:
    """Refuse pixels that are not square to the hundredth: the SDK's operator multiplies each direction with the other one's spacing."""
    spacings = [image.header.plane.spacing for image in images if image.header.plane]
    if oblong := sum(not math.isclose(*spacing, rel_tol=0.01) for spacing in spacings):
        raise RefusedError(
            Code.UNSUPPORTED_IMAGE,
            f"The pixels of {oblong} of {len(images)} images are not square, and the SDK's operator swaps their two spacings; "
            f"the application does not say that it handles {Handles.NON_SQUARE}.",
        )


def _why(count: int) -> str:
    return "the only series that the rules take" if count == 1 else f"the largest of {count} that the rules take"


def _syntax_name(syntax: str) -> str:
    return class_name(syntax) or "a transfer syntax that is not DICOM's own"
