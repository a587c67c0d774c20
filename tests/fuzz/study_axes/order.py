"""The order and the names in which images come: listing, members of the archive, InstanceNumber. None of them changes the answer."""

from __future__ import annotations

from tests.fuzz.study_axes.axis import ANSWER, Phase, axis, variants
from tests.fuzz.study_draft import Draft


@variants("listing_{}", Phase.NAMES, ANSWER, {"reversed": "reversed", "shuffled": "shuffled"}, slot="listing")
def _listing(draft: Draft, listing: str) -> None:
    draft.listing = listing


@axis("members_shuffled", Phase.NAMES, ANSWER, slot="members")
def _members_shuffled(draft: Draft) -> None:
    draft.order = draft.random.shuffle


@axis("members_reversed", Phase.NAMES, ANSWER, slot="members")
def _members_reversed(draft: Draft) -> None:
    draft.order = lambda files: files.reverse()


@axis("names_random", Phase.NAMES, ANSWER, slot="names")
def _names_random(draft: Draft) -> None:
    names = [f"{draft.random.getrandbits(64):x}" for _ in range(400)]
    draft.name = lambda number: names[number]


@axis("names_without_extension", Phase.NAMES, ANSWER, slot="names")
def _no_extension(draft: Draft) -> None:
    draft.name = lambda number: f"ZQPLANT^VAUGHNZQ 1961-02-03/MR HEAD/SE 1/IM_{number:04d}"


@axis("names_unicode", Phase.NAMES, ANSWER, slot="names")
def _unicode(draft: Draft) -> None:
    draft.name = lambda number: f"Müllerzq Jürgen/🧠 {'ä' * 100}/{number}.dcm"


@axis("instance_number_reversed", Phase.STACK, ANSWER, slot="numbers")
def _reversed(draft: Draft) -> None:
    for number, image in enumerate(reversed(draft.images), start=1):
        image.header.InstanceNumber = number


@axis("instance_number_shuffled", Phase.STACK, ANSWER, slot="numbers")
def _shuffled(draft: Draft) -> None:
    numbers = list(range(1, len(draft.images) + 1))
    draft.random.shuffle(numbers)
    for number, image in zip(numbers, draft.images, strict=True):
        image.header.InstanceNumber = number


@axis("instance_number_absent", Phase.STACK, ANSWER, slot="numbers")
def _absent(draft: Draft) -> None:
    for image in draft.images:
        del image.header.InstanceNumber


@axis("instance_number_empty", Phase.STACK, ANSWER, slot="numbers")
def _empty(draft: Draft) -> None:
    for image in draft.images:
        image.header.InstanceNumber = None


@axis("instance_number_equal", Phase.STACK, ANSWER, slot="numbers")
def _equal(draft: Draft) -> None:
    for image in draft.images:
        image.header.InstanceNumber = 1


@axis("instance_number_huge", Phase.STACK, ANSWER, slot="numbers")
def _huge(draft: Draft) -> None:
    for image in draft.images:
        image.header.InstanceNumber = 2147483000 + int(image.header.InstanceNumber)


@axis("slice_location_wrong", Phase.STACK, ANSWER, slot="numbers")
def _location(draft: Draft) -> None:
    for image in draft.images:
        image.header.SliceLocation = f"{draft.random.uniform(-100, 100):.2f}"
