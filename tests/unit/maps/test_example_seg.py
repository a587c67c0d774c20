"""The example's own DICOM Segmentation: it lies on the planes it was made of, refers to them, and repeats the study readably."""

from __future__ import annotations

import copy

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.charset import convert_encodings
from pydicom.sr.codedict import codes
from pydicom.valuerep import PersonName

from tests.unit.maps.example_app import SIZE, STEP, app, classic, enhanced, groups

ORDER = [int(index) for index in np.random.default_rng(5).permutation(SIZE)]
MASK = np.zeros((SIZE, SIZE, SIZE), np.uint8)
MASK[3:11, 4:9, 5:14] = 1


def written(images, folder, mask=MASK):
    path = app().seg.write_segmentation(folder, app().frames.stack_of(images), mask, version="1.0.0")
    assert [item.name for item in folder.iterdir()] == [path.name]
    return pydicom.dcmread(path)


def inside_mm(seg) -> set[tuple[float, ...]]:
    """Centres of the voxels inside, by the attributes of the segmentation alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.split(np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float), 2)
    between_rows, between_columns = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = set()
    for group, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for line, place in np.argwhere(pixels):
            found.add(tuple(float(value) for value in np.round(position + row * place * between_columns + column * line * between_rows, 2)))
    return found


EXPECTED = {(-60 + 8.0 * place, -60 + 8.0 * line, STEP * plane) for plane, line, place in np.argwhere(MASK)}


@pytest.mark.parametrize("make", [lambda: _shuffled(classic()), lambda: [enhanced(ORDER)]], ids=["classic", "enhanced"])
def test_a_segmentation_lies_where_the_mask_lies_and_each_frame_refers_to_its_plane(make, tmp_path):
    images = make()
    places = {
        (item.SOPInstanceUID, index + 1): np.array(frame.ImagePositionPatient, float)
        for item in images
        for index, frame in enumerate(_positions(item))
    }
    seg = written(images, tmp_path)
    assert inside_mm(seg) == EXPECTED
    for group in seg.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = places[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)]
        assert np.array_equal(place, np.array(group.PlanePositionSequence[0].ImagePositionPatient, float))
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(images)


def _shuffled(images):
    return [images[index] for index in ORDER]


def _positions(image):
    if "PerFrameFunctionalGroupsSequence" not in image:
        return [image]
    return [group.PlanePositionSequence[0] for group in image.PerFrameFunctionalGroupsSequence]


def test_it_is_one_binary_segment_called_brain(tmp_path):
    seg = written(classic(), tmp_path)
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Brain", "AUTOMATIC")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.SCT.Brain.value
    assert (seg.SegmentationType, seg.ContentLabel, seg.Modality) == ("BINARY", "BRAIN", "SEG")
    assert "not for clinical use" in seg.SeriesDescription
    assert seg.ContributingEquipmentSequence[0].DeviceUID == app().seg.MODEL_UID
    assert seg.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    volume = highdicom.seg.segread(next(tmp_path.iterdir())).get_volume(segment_numbers=[1], combine_segments=True)
    assert int(volume.array.sum()) == MASK.sum()
    assert abs(np.linalg.det(volume.affine[:3, :3])) == pytest.approx(8**3)


def test_the_source_keeps_its_own_header(tmp_path):
    images = classic(SpacingBetweenSlices="-1")
    written(images, tmp_path)
    assert (str(images[0].PatientName), images[0].PatientID, images[0].StudyDate) == ("Invented", "1", "20000101")
    assert images[0].SpacingBetweenSlices == -1


def test_directions_that_differ_by_rounding_and_wrong_spacings_are_written_as_the_planes_lie(tmp_path):
    images = classic(SpacingBetweenSlices="-1", SliceThickness=None)
    for index, item in enumerate(images):
        item.ImageOrientationPatient = [1, "0.0005" if index == 0 else "0", 0, 0, 1, 0]
    seg = written(images, tmp_path)
    assert inside_mm(seg) == EXPECTED
    assert seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (float(measures.SpacingBetweenSlices), float(measures.SliceThickness)) == (8, 8)


def test_directions_of_each_frame_become_the_ones_of_all(tmp_path):
    image = enhanced(ORDER)
    shared = image.SharedFunctionalGroupsSequence[0]
    for index in range(SIZE):
        groups(image, index).PlaneOrientationSequence = copy.deepcopy(shared.PlaneOrientationSequence)
    del shared.PlaneOrientationSequence
    assert inside_mm(written([image], tmp_path)) == EXPECTED


def test_what_archives_group_by_is_repeated_to_the_letter_valid_or_not(tmp_path):
    images = classic()
    for item in images:
        for keyword, value in (("PatientSex", "W"), ("StudyDate", "2000.1.1"), ("StudyTime", "noon"), ("PatientBirthDate", "3.2.1961")):
            item[keyword] = pydicom.DataElement(keyword, pydicom.datadict.dictionary_VR(keyword), value, validation_mode=0)
        del item.AccessionNumber, item.StudyID
    seg = written(images, tmp_path)
    assert (seg.PatientSex, seg.StudyDate, seg.StudyTime, seg.PatientBirthDate) == ("W", "2000.1.1", "noon", "3.2.1961")
    assert (seg.AccessionNumber or "", seg.StudyID or "") == ("", "")


@pytest.mark.parametrize(
    ("declared", "raw", "name"),
    [
        (b"\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎"),
        (b"\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", "Hong^Gildong=洪^吉洞=홍^길동"),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 192", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO-IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 999", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 999", "Müller^Jörg".encode(), "Müller^Jörg"),
        (b"", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the placeholders
def test_a_name_is_readable_whatever_it_was_written_in(declared, raw, name, tmp_path):
    if isinstance(raw, str):
        raw = PersonName(raw).encode(convert_encodings(declared.decode().split("\\")))
    images = []
    for index, item in enumerate(classic(PatientName="Q" * len(raw), StudyDescription="Q" * len(raw))):
        item.SpecificCharacterSet = "C" * len(declared)
        path = tmp_path / f"{index}"
        item.save_as(path, enforce_file_format=True)
        data = path.read_bytes().replace(b"Q" * len(raw), raw)
        path.write_bytes(data.replace(b"C" * len(declared), declared, 1) if declared else data)
        images.append(path)
    (for_rules,) = app().instances.read_folder(images)
    assert app().instances.rule_header(for_rules).StudyDescription == name
    (series,) = app().instances.read_folder(images)
    (tmp_path / "out").mkdir()
    seg = written(series.images, tmp_path / "out")
    assert (str(seg.PatientName), seg.StudyDescription, seg.SpecificCharacterSet) == (name, name, "ISO_IR 192")
