"""An inference host from the stock image (``ami_mode`` stock): provisioned over SSH when it is created, and then without any way in.

Until it is whole, it carries another role and a time to expire, so that no study is given to it and whoever finds it half-made removes it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from monai_aws_pipeline.cloud.instances import LaunchSpec, Machine, Machines, cloud_config, leased
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import TAG_LEASE
from monai_aws_pipeline.contract import ROLE_AMI_BAKE, TAG_EXPIRES_AT, TAG_ROLE
from monai_aws_pipeline.deployment.ami import min_driver
from monai_aws_pipeline.deployment.build_machine import TIMER_UNIT, expiring_tags, own_timer, provision, reach, way_in
from monai_aws_pipeline.deployment.host_bundle import make_bundle
from monai_aws_pipeline.remote import KeyPair
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

# The timer would stop a host that is at work; our key must not open it once the group that lets us in is gone.
SETTLE = f"sudo sh -c 'systemctl stop {TIMER_UNIT}.timer; rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; sync'"


def provisioned_content(settings: Settings, report: Report) -> str:
    """What a machine is provisioned with, as a hash; empty where the image holds it already."""
    if settings.ami_mode != "stock":
        return ""
    with scratch("monai-aws-bundle") as folder:
        return make_bundle(settings, folder, report, builds=False).content


def launch_provisioned(
    clients: Clients, machines: Machines, settings: Settings, spec: LaunchSpec, files: list[dict[str, str]], report: Report
) -> Machine:
    """Launch a host, provision it over SSH, and take the way in away. ``spec`` is the host's own, ``files`` what its user data writes.

    However it ends, key pair and SSH group are gone afterwards; when it does not end well, the machine too.
    """
    user_key, host_key = KeyPair.fresh(), KeyPair.fresh()
    passing = expiring_tags(settings, ROLE_AMI_BAKE, spec.tags.run_id, datetime.now(UTC))
    tags = leased(replace(passing, name=spec.tags.name, extra=spec.tags.extra))
    lease = tags.extra[TAG_LEASE]
    way = way_in(clients, settings, machines, report)
    machine = ""
    try:
        group = machines.security_group(tags, "SSH for the time of provisioning", way.ingress_from, settings.ssh_port)
        key = machines.import_key(tags, user_key.public)
        user_data = cloud_config(host_key=(host_key.private, host_key.public), files=files, commands=[own_timer(settings)])
        launched = machines.launch(replace(spec, tags=tags, user_data=user_data, security_group=group, key_name=key), report)
        machine = launched.id
        with (
            scratch("monai-aws-bundle") as folder,
            reach(launched, settings, way, user_key, host_key, report) as remote,
        ):
            provision(remote, make_bundle(settings, folder, report, builds=False).path, min_driver(settings), report)
            remote.run(SETTLE, report, what="Taking the way in away", seconds=60)
        machines.set_security_groups(machine, [spec.security_group])
        machines.end_access(lease, report)
        machines.tag_with_disks(machine, {TAG_ROLE: spec.tags.role, TAG_EXPIRES_AT: ""})
    except BaseException:  # a cancelled run raises KeyboardInterrupt's kin
        machines.end_lease(lease, machine, report)
        raise
    return machines.look(machine) or launched
