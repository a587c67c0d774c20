"""The example's own reading of a series: what is one volume, in which order, and what is refused by which words. Without SDK and torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedMRImageStorage, generate_uid

from tests.unit.maps.example_app import SIZE, STEP, app, classic, enhanced, groups, item_of, stored

ORDER = [int(index) for index in np.random.default_rng(5).permutation(SIZE)]


def shuffled(images):
    return [images[index] for index in ORDER]


def of_kind(sop_class):
    image = enhanced(ORDER)
    image.SOPClassUID = sop_class
    for index in range(SIZE):
        groups(image, index).CTImageFrameTypeSequence = [item_of(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
    return image


def again(images, **attributes):
    """The same images once more, with other UIDs and some attributes changed."""
    found = copy.deepcopy(images)
    for item in found:
        item.SOPInstanceUID = generate_uid()
        for name, value in attributes.items():
            setattr(item, name, value)
    return found


def refused(images) -> str:
    with pytest.raises(app().errors.NoAnswerError) as error:
        app().frames.stack_of(images)
    return str(error.value)


@pytest.mark.parametrize(
    "images",
    [shuffled(classic()), [enhanced(ORDER)], [of_kind(LegacyConvertedEnhancedMRImageStorage)], [of_kind(EnhancedCTImageStorage)]],
    ids=["classic", "enhanced MR", "legacy converted", "enhanced CT"],
)
def test_planes_are_sorted_along_their_normal_whatever_order_they_come_in(images):
    stack = app().frames.stack_of(images)
    assert [frame.position[2] for frame in stack.frames] == [index * STEP for index in range(SIZE)]
    assert np.array_equal(app().pixels.volume_of(stack.frames), stored())
    assert np.allclose(stack.affine @ [3, 2, 1, 1], [-60 + 8, -60 + 16, 24, 1])


def test_directions_and_positions_that_differ_by_rounding_are_one_volume():
    images = classic()
    noise = np.random.default_rng(1)
    for item in images:
        item.ImageOrientationPatient = [f"{float(value) + noise.uniform(-1e-5, 1e-5):.7f}" for value in item.ImageOrientationPatient]
        item.ImagePositionPatient = [f"{float(value) + noise.uniform(-1e-2, 1e-2):.6f}" for value in item.ImagePositionPatient]
    stack = app().frames.stack_of(images)
    assert np.allclose(stack.orientation, [1, 0, 0, 0, 1, 0], atol=1e-5)
    row, column = stack.orientation[:3], stack.orientation[3:]
    assert (np.linalg.norm(row), np.linalg.norm(column), row @ column) == pytest.approx((1, 1, 0), abs=1e-12)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"EchoTime": "90"}, "more than one stack: EchoTime (10: 16, 90: 16)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "more than one stack: ImageType has 2 values (16 and 16)"),
        ({"DiffusionBValue": 1000.0}, "more than one stack: DiffusionBValue has 2 values (16 and 16)"),
        ({"TemporalPositionIdentifier": 2}, "more than one stack: TemporalPositionIdentifier"),
        ({"AcquisitionNumber": 2}, "lie where another one lies (ImagePositionPatient); they differ in AcquisitionNumber (1: 16, 2: 16)"),
        ({"AcquisitionNumber": None}, "16 of 32 slices lie where another one lies"),
        ({}, "16 of 32 slices lie where another one lies (ImagePositionPatient)"),
    ],
)  # fmt: skip
def test_two_stacks_in_one_series_are_refused_by_what_tells_them_apart(changed, said):
    images = classic()
    assert said in refused(images + again(images, **changed))


def test_a_second_stack_that_lies_between_the_first_is_refused_too():
    images = classic()
    for item in images[::2]:
        item.EchoTime = "90"
    assert "EchoTime (10: 8, 90: 8)" in refused(images)
    images = classic()
    aside = again(images)
    for item in aside:
        item.ImagePositionPatient = [*item.ImagePositionPatient[:2], float(item.ImagePositionPatient[2]) + 0.0004]
    assert "lie where another one lies" in refused(images + aside)


def test_a_text_of_the_header_is_never_said():
    images = classic()
    said = refused(images + again(images, ImageType=["ORIGINAL", "PRIMARY", "MILLER"]))
    assert "MILLER" not in said and "ImageType" in said


@pytest.mark.parametrize(
    ("sequence", "keyword", "values", "said"),
    [
        ("MREchoSequence", "EffectiveEchoTime", (10.0, 90.0), "EchoTime (10: 8, 90: 8)"),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0), "DiffusionBValue (0: 8, 1000: 8)"),
        ("FrameContentSequence", "StackID", ("1", "2"), "StackID (1: 8, 2: 8)"),
        ("CTImageFrameTypeSequence", "FrameType", (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"]), "FrameType has 2 values (8 and 8)"),
        ("MRImageFrameTypeSequence", "ComplexImageComponent", ("MAGNITUDE", "PHASE"), "ComplexImageComponent has 2 values (8 and 8)"),
    ],
)
def test_stacks_within_a_multi_frame_image_are_refused_even_where_their_places_differ(sequence, keyword, values, said):
    image = enhanced(ORDER)
    for index in range(SIZE):
        group = groups(image, index)
        if sequence not in group:
            setattr(group, sequence, [item_of()])
        setattr(group[sequence].value[0], keyword, values[index % 2])
    assert said in refused([image])


def test_a_multi_frame_image_says_where_each_of_its_frames_lies():
    image = enhanced()
    for index in range(4):
        del groups(image, index).PlanePositionSequence
    assert "ImagePositionPatient is missing or unreadable in 4 of 16 slices" in refused([image])
    image = enhanced()
    image.PerFrameFunctionalGroupsSequence = list(image.PerFrameFunctionalGroupsSequence)[:-1]
    assert "15 items for 16 frames" in refused([image])
    single = classic()[0]
    single.NumberOfFrames = 16
    assert "no positions for them" in refused([single])
    assert "2 images, 2 of them multi-frame" in refused([enhanced(), enhanced()])


def test_geometry_of_a_frame_may_stand_beside_it_or_once_for_all():
    image = enhanced(ORDER)
    shared = image.SharedFunctionalGroupsSequence[0]
    for index in range(SIZE):
        groups(image, index).PlaneOrientationSequence = copy.deepcopy(shared.PlaneOrientationSequence)
        groups(image, index).PixelMeasuresSequence = copy.deepcopy(shared.PixelMeasuresSequence)
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    assert np.array_equal(app().pixels.volume_of(app().frames.stack_of([image]).frames), stored())


def change(name, value, indices):
    images = classic()
    for index in indices:
        setattr(images[index], name, value)
    return images


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (change("ImagePositionPatient", None, range(10, 16)), "ImagePositionPatient is missing or unreadable in 6 of 16 slices"),
        (change("PixelSpacing", None, range(16)), "PixelSpacing is missing or unreadable in 16 of 16 slices"),
        (change("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], [7]), "not parallel (ImageOrientationPatient differs in 1 of 16 slices)"),
        (change("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], range(16)), "two unit vectors at a right angle"),
        (change("PixelSpacing", ["8", "7"], [3]), "PixelSpacing differs"),
        (change("Columns", 8, [3]), "more than one Rows and Columns (15 and 1 images)"),
        (change("FrameOfReferenceUID", "1.2.3", range(8)), "more than one FrameOfReferenceUID (8 and 8 images)"),
        (change("FrameOfReferenceUID", None, range(16)), "FrameOfReferenceUID is missing in 16 of 16 images"),
        (change("PhotometricInterpretation", "MONOCHROME1", [3]), "more than one PhotometricInterpretation"),
        (change("SamplesPerPixel", 3, range(16)), "16 of 16 images are no gray images"),
        (change("PhotometricInterpretation", "PALETTE COLOR", range(16)), "no gray images"),
        (change("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"], range(16)), "16 of 16 images are mosaics"),
        (change("SOPClassUID", "1.3.46.670589.11.0.0.12.1", range(16)), "private SOP class"),
        (change("SOPInstanceUID", "1.2.3", [3, 4]), "SOPInstanceUID is used twice"),
        (classic()[:2], "the series has 2 slices; this application needs 12 or more"),
        (classic()[:13], "covers 104 mm with 13 slices; a brain needs 110 mm"),
    ],
)
def test_what_is_not_one_volume_of_a_head_is_refused_with_attribute_and_count(images, said):
    assert said in refused(images)


def test_a_missing_slice_and_a_tilted_gantry_are_told_apart():
    images = classic()
    del images[7]
    assert "missing, doubled or unevenly spaced (ImagePositionPatient: 1 of 14 steps)" in refused(images)
    images = classic()
    for index, item in enumerate(images):
        item.ImagePositionPatient = [-60, -60 + 2.4 * index, index * STEP]
    assert "sheared against their normal by 16.7 degrees (gantry tilt)" in refused(images)


def test_the_folder_is_read_whole(tmp_path):
    """The SDK's loader drops each of these images, or their series."""
    images = classic()
    images[3].AcquisitionNumber = None
    for item in images:
        item.SeriesNumber = None
    doubled = again(images)
    for index, item in enumerate(images + doubled):
        item.save_as(tmp_path / f"{index:03}", enforce_file_format=True)
    (tmp_path / "read.me").write_text("no image")
    images[5].save_as(tmp_path / "copy", enforce_file_format=True)
    (series,) = app().instances.read_folder(tmp_path.iterdir())
    assert (len(series.images), series.others) == (2 * SIZE, [])
    header = app().instances.rule_header(series)
    assert "SeriesNumber" not in header and header.Modality == "MR"


def test_a_slice_without_preamble_belongs_to_its_series_and_one_that_breaks_off_is_no_silence(tmp_path):
    images = classic()
    for index, item in enumerate(images):
        item.save_as(tmp_path / f"{index:03}", enforce_file_format=True)
    whole = (tmp_path / "000").read_bytes()
    (tmp_path / "000").write_bytes(whole[132 + 12 + int.from_bytes(whole[140:144], "little") :])
    (series,) = app().instances.read_folder(tmp_path.iterdir())
    assert len(series.images) == SIZE
    assert np.array_equal(app().pixels.volume_of(app().frames.stack_of(series.images).frames), stored())
    cut = whole.index(b"\x20\x00\x0d\x00UI")
    (tmp_path / "000").write_bytes(whole[:cut])
    with pytest.raises(app().instances.FileError, match="StudyInstanceUID and SeriesInstanceUID"):
        app().instances.read_folder(tmp_path.iterdir())


def test_raw_data_of_the_series_is_no_image(tmp_path):
    images = classic()
    raw = copy.deepcopy(images[0])
    raw.SOPInstanceUID, raw.SOPClassUID = generate_uid(), app().instances.RawDataStorage
    for index, item in enumerate([raw, *images]):
        item.save_as(tmp_path / f"{index:03}", enforce_file_format=True)
    (series,) = app().instances.read_folder(tmp_path.iterdir())
    assert (len(series.images), len(series.others)) == (SIZE, 1)


def test_an_image_type_of_one_value_does_not_end_the_selection(tmp_path):
    series = app().instances.Series("1", "2", classic(ImageType="DERIVED"))
    app().instances.rule_header(series)
    assert series.images[0]["ImageType"].VM == 2


def test_the_largest_series_is_answered_and_a_tie_of_different_ones_refused():
    choose, whole = app().choice.largest, classic()
    assert choose([whole[:13], whole, whole[:14]]) is whole
    assert choose([whole, [enhanced(ORDER)]]) is whole
    with pytest.raises(app().choice.SeriesChoiceError, match="2 series of the study fit, with 16 images each"):
        choose([whole, classic(stored()[:, ::-1])])


def test_an_error_of_a_library_loses_what_it_quotes():
    with pytest.raises(app().errors.UnexpectedError) as error, app().errors.no_values_quoted("reading the files"):
        raise KeyError("Miller^Anna")
    assert "Miller" not in str(error.value) and "reading the files failed: KeyError" in str(error.value)
    assert error.value.__suppress_context__
    with pytest.raises(MemoryError), app().errors.no_values_quoted("reading"):
        raise MemoryError
    assert app().errors.one_line(ValueError("one\n  two")) == "ValueError: one two"
