"""A machine may go off, and lose its public address, while it is told of: moto's answer is whole all the same."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from moto.ec2.models.elastic_network_interfaces import NetworkInterface

from monai_aws_pipeline.local_cloud.ec2 import association_at_once

MOTOS = NetworkInterface.association.fget


class Leaving:
    """An interface whose machine goes off behind so many looks at its address."""

    ec2_backend = SimpleNamespace(account_id="000000000000", address_by_ip=lambda *_, **__: [])

    def __init__(self, looks: int):
        self._looks = looks

    @property
    def public_ip(self) -> str | None:
        self._looks -= 1
        return "10.0.0.7" if self._looks >= 0 else None


def test_moto_itself_fails():
    with pytest.raises(TypeError, match="NoneType"):
        MOTOS(Leaving(3))


@pytest.mark.parametrize("looks", range(1, 6))
def test_it_is_told_with_the_address_that_it_had_at_first(looks: int):
    told = partial(association_at_once, MOTOS)(Leaving(looks))
    assert (told["publicIp"], told["publicDnsName"]) == ("10.0.0.7", "ip-10-0-0-7.ec2.internal")


def test_one_without_an_address_has_no_association():
    assert association_at_once(MOTOS, Leaving(0)) == {}
