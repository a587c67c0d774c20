"""The example's own reading of pixels: what the stored bits of a series mean, as one float32 volume. Without SDK and torch."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    RLELossless,
)

from tests.unit.maps.example_app import SIZE, app, classic, enhanced, groups, item_of, stored

SIGNED = (stored().astype(np.int32) - 2000).astype(np.int16)


def volume(images) -> np.ndarray:
    return app().pixels.volume_of(app().frames.stack_of(images).frames)


def refused(images) -> str:
    with pytest.raises(app().pixels.PixelError) as error:
        volume(images)
    return str(error.value)


def compressed(syntax, encode, images):
    for item in images:
        item.PixelData = encapsulate([encode(item)])
        item["PixelData"].VR, item["PixelData"].is_undefined_length = "OB", True
        item.file_meta.TransferSyntaxUID = syntax
    return images


def jpeg_ls(item) -> bytes:
    import jpeg_ls

    kind = np.uint8 if item.BitsAllocated == 8 else np.uint16
    return bytes(jpeg_ls.encode_array(np.frombuffer(item.PixelData, kind).reshape(SIZE, SIZE)))


def test_each_slice_has_its_own_rescale_and_the_first_does_not_decide_the_type():
    values = stored()
    images = classic(np.where(np.arange(SIZE)[:, None, None] == 0, 0, values).astype(np.uint16))
    for index, item in enumerate(images):
        item.RescaleSlope, item.RescaleIntercept = ("1", "0") if index == 0 else (f"{0.004 * index:.3f}", "-3")
    found = volume(images)
    assert found.dtype == np.float32
    assert not found[0].any()
    for index in range(1, SIZE):
        assert np.allclose(found[index], values[index] * (0.004 * index) - 3, atol=1e-4)


def test_values_of_sixteen_bits_do_not_overflow():
    values = (stored().astype(np.int64) * 16).clip(0, 65535).astype(np.uint16)
    images = classic(values, BitsStored=16, HighBit=15, RescaleSlope="1", RescaleIntercept="0")
    assert np.array_equal(volume(images), values.astype(np.float32))


def test_a_rescale_of_some_slices_alone_is_refused_unless_it_changes_nothing():
    images = classic()
    for item in images[::2]:
        item.RescaleSlope, item.RescaleIntercept = "1", "0"
    assert np.array_equal(volume(images), stored())
    images[0].RescaleSlope = "0.5"
    assert refused(images) == "RescaleSlope is missing in 8 of 16 slices"
    assert "RescaleSlope is 0" in refused(classic(RescaleSlope="0", RescaleIntercept="0"))


def test_a_frame_of_a_multi_frame_image_has_its_own_rescale():
    order = list(range(SIZE))[::-1]
    image = enhanced(order)
    for place, index in enumerate(order):
        groups(image, place).PixelValueTransformationSequence = [item_of(RescaleSlope=index + 1, RescaleIntercept=0, RescaleType="US")]
    assert np.array_equal(volume([image]), stored() * (np.arange(SIZE)[:, None, None] + 1))


def test_a_modality_table_is_looked_up():
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4096, 0, 16], "US", (np.arange(4096) * 3).astype("<u2").tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    assert np.array_equal(volume(classic(ModalityLUTSequence=[table])), stored() * 3.0)


def test_monochrome1_is_inverted_over_the_whole_volume():
    image = enhanced(list(range(SIZE))[::-1], 4095 - stored())
    image.PhotometricInterpretation = "MONOCHROME1"
    for images in ([image], classic(4095 - stored(), PhotometricInterpretation="MONOCHROME1")):
        assert np.array_equal(volume(images), stored())


def test_monochrome1_is_inverted_after_the_rescale_of_each_slice():
    bright = stored().astype(float)
    images = classic(PhotometricInterpretation="MONOCHROME1")
    for index, item in enumerate(images):
        slope = 1 + index / 10
        item.PixelData = np.rint((4000 - bright[index]).clip(0) / slope).astype("<u2").tobytes()
        item.RescaleSlope, item.RescaleIntercept = f"{slope:.1f}", "0"
    found = volume(images)
    assert np.abs((found - found.max()) - (bright.clip(0, 4000) - 4000)).max() < 1.5


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        (SIGNED, {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}, SIGNED),
        (SIGNED.view(np.uint16) & 4095, {"PixelRepresentation": 1}, SIGNED),
        (stored() | 0xA000, {}, stored()),
        ((SIGNED.view(np.uint16) & 4095) | 0x5000, {"PixelRepresentation": 1}, SIGNED),
        ((stored() << 4) | 5, {"HighBit": 15}, stored()),
        ((stored() >> 4).astype(np.uint8), {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, stored() >> 4),
        (stored().astype(np.uint32) * 70000, {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, stored().astype(np.float32) * 70000),
    ],
    ids=["signed", "signed in 12 bits", "overlay above", "signed and overlay above", "left aligned", "8 bits", "32 bits"],
)
def test_stored_bits_are_what_bits_stored_and_high_bit_say(values, bits, expected):
    assert np.allclose(volume(classic(values, **bits)), expected, rtol=1e-6)


@pytest.mark.parametrize(("keyword", "kind", "bits"), [("FloatPixelData", "<f4", 32), ("DoubleFloatPixelData", "<f8", 64)])
def test_pixels_may_be_floats_and_must_be_numbers(keyword, kind, bits):
    images = classic()
    for item, values in zip(images, stored(), strict=True):
        del item.PixelData, item.BitsStored, item.HighBit, item.PixelRepresentation
        item.BitsAllocated = bits
        setattr(item, keyword, (values / 7).astype(kind).tobytes())
    assert np.allclose(volume(images), stored() / 7)
    broken = (stored()[3] / 7).astype(kind)
    broken[0, 0] = np.nan
    setattr(images[3], keyword, broken.tobytes())
    assert "not finite" in refused(images)


def test_padding_is_dark_and_a_padding_value_within_the_image_is_not_believed():
    values = SIGNED.copy()
    values[:, :2] = -32768
    signed = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    images = classic(values, **signed)
    for item in images:
        item.add_new("PixelPaddingValue", "US", 32768)  # as written by a system that takes it for unsigned
    found = volume(images)
    assert (found[:, :2] == SIGNED[:, 2:].min()).all() and np.array_equal(found[:, 2:], SIGNED[:, 2:])
    images = classic()
    for item in images:
        item.add_new("PixelPaddingValue", "US", int(stored()[4, 4, 4]))
    assert np.array_equal(volume(images), stored())


def test_syntaxes_that_pydicom_reads_alone_and_jpeg_ls_give_the_stored_values():
    images = classic()
    for item in images:
        item.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(volume(images), stored())
    assert np.array_equal(volume(classic(stored() >> 1)), stored() >> 1)
    assert np.array_equal(volume(compressed(JPEGLSLossless, jpeg_ls, classic())), stored())
    image = enhanced(list(range(SIZE))[::-1])
    image.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(volume([image]), stored())


def test_files_that_are_deflated_or_big_endian_give_the_stored_values(tmp_path):
    for syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        for index, (item, values) in enumerate(zip(classic(), stored(), strict=True)):
            item.file_meta.TransferSyntaxUID = syntax
            big = syntax == ExplicitVRBigEndian
            item.PixelData = values.astype(">u2" if big else "<u2").tobytes()
            item["PixelData"].VR = "OW"
            item.save_as(tmp_path / f"{index:03}", implicit_vr=False, little_endian=not big, enforce_file_format=True)
        (series,) = app().instances.read_folder(tmp_path.iterdir())
        assert np.array_equal(volume(series.images), stored()), syntax.name


def test_every_compressed_syntax_has_one_decoder_and_the_application_installs_it():
    names = {"gdcm": "python-gdcm", "pyjpegls": "pyjpegls", "pylibjpeg": "pylibjpeg-openjpeg"}
    requirements = (app().instances.Path(app().pixels.__file__).parent / "requirements.txt").read_text()
    assert set(app().pixels.DECODERS.values()) - {"pydicom"} == set(names)
    assert all(f"\n{package}==" in requirements for package in names.values())
    assert "pylibjpeg-libjpeg==" not in requirements


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        ("1.2.840.10008.1.2.4.110", "pixels are stored as JPEG XL, which this application cannot decode"),
        ("1.2.840.113619.5.2", "pixels are stored as a private transfer syntax, which this application cannot decode"),
        ("1.2.840.10008.1.2.4.100", "pixels are stored as MPEG2 Main Profile"),
    ],
)
def test_a_syntax_without_decoder_is_named(syntax, said):
    images = classic()
    images[4].file_meta.TransferSyntaxUID = syntax
    assert refused(images).startswith(said)


def test_pixels_that_are_missing_broken_off_or_wider_than_said_are_refused():
    images = classic()
    del images[3].PixelData
    assert refused(images) == "an image of the series holds no pixels (PixelData)"
    images = classic()
    images[3].PixelData = images[3].PixelData[:100]
    assert refused(images) == "pixels stored as Explicit VR Little Endian cannot be decoded: ValueError"
    wide = compressed(JPEGLSLossless, jpeg_ls, classic(stored() << 4))
    assert refused(wide) == "stored values need more bits than BitsStored says (12)"
    image = enhanced()
    image.compress(RLELossless, generate_instance_uid=False)
    image.PixelData = encapsulate(list(generate_frames(image.PixelData, number_of_frames=SIZE))[:-3])
    assert refused([image]) == "3 of 16 frames hold no pixels"
