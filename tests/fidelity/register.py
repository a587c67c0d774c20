"""The behaviours of AWS that are shown here, what is not imitated, and the page that says both. Standard library only."""

from __future__ import annotations

from tests.fidelity.behaviour import Behaviour
from tests.fidelity.imaging import IMAGING, NOT_IMITATED_OF_IMAGING
from tests.fidelity.played import REFUSALS, Played
from tests.fidelity.services import NOT_IMITATED_OF_SERVICES, SERVICES

ERROR_CODES = "EC2 API Reference, Error codes"


def _refusal(played: Played) -> Behaviour:
    ends = (
        f"named: `{played.end}`"
        if played.end.endswith("Error")
        else played.end
        if played.end != "retry"
        else "tried again, at most six times"
    )
    return Behaviour(played.id, f"{played.call}: `{played.code}`, HTTP {played.status}, “… {played.words} …”", ends, ERROR_CODES)


USER_GUIDE, CONSISTENCY, STATE_REASON = "EC2 User Guide", "EC2 Developer Guide, Eventual consistency", "EC2 API Reference, StateReason"
ENDPOINT = f"{USER_GUIDE}, Connect using a private IP address and EC2 Instance Connect Endpoint"
SCALING_GUIDE, SCALING_API = "EC2 Auto Scaling User Guide", "EC2 Auto Scaling API Reference"
NEXT_ZONE = "the next zone, then the next type"

BEHAVIOURS = (
    Behaviour(
        "snapshot-of-base",
        "a root disk below the 75 GiB of the base image's snapshot: `InvalidBlockDeviceMapping`",
        "the disk is made as large as the snapshot, and that is said; `doctor` says it before",
        "scylla-cluster-tests issue 2484, and others with the same words",
    ),
    Behaviour(
        "snapshot-of-template",
        "the same for block devices that a launch template names",
        "150 GiB by default, twice the base image",
        f"{USER_GUIDE}, Block device mappings",
    ),
    Behaviour(
        "snapshot-of-baked",
        "an image has the size of the disk of the machine it was made from",
        "a setting made smaller later is raised to the image's own size",
        f"{USER_GUIDE}, Create an Amazon EBS-backed AMI",
    ),
    Behaviour(
        "base-parameter-moves",
        "the public parameter of the base image names another image every few days",
        "the base image is kept; it moves with `scheduled_ami_refresh`, or when a run is told to",
        "AWS Deep Learning AMIs Developer Guide, Finding a DLAMI ID",
    ),
    Behaviour(
        "new-instance",
        "the first calls that name a new machine say `InvalidInstanceID.NotFound`",
        "waited for up to a minute; gone only where a search does not find it",
        CONSISTENCY,
    ),
    Behaviour(
        "new-group", "the first calls that name a new security group say `InvalidGroup.NotFound`", "tried again up to a minute", CONSISTENCY
    ),
    Behaviour(
        "new-key-pair",
        "the first launch with a new key pair says `InvalidKeyPair.NotFound`",
        "tried again with the same client token",
        CONSISTENCY,
    ),
    Behaviour(
        "new-image",
        "the first calls that name a new image say `InvalidAMIID.NotFound`",
        "waited for, tagged and removed all the same",
        CONSISTENCY,
    ),
    Behaviour(
        "profile-not-known-yet",
        "a launch with an instance profile that EC2 does not know (yet)",
        "tried again, then named with `monai-aws bootstrap`",
        "IAM User Guide, Troubleshoot IAM: changes are not always immediately visible",
    ),
    *(
        Behaviour(f"launch-ends-{reason}", f"a launch that was taken ends as terminated, for `{reason}`", ends, STATE_REASON)
        for reason, ends in (
            ("Server.InsufficientInstanceCapacity", NEXT_ZONE),
            ("Server.InternalError", NEXT_ZONE),
            ("Client.InternalError", "named at once, with what the key's policy must give"),
            ("Client.VolumeLimitExceeded", "named at once, with the quota"),
        )
    ),
    Behaviour(
        "start-ends-Client.InternalError",
        "a start that was taken ends as stopped again, where a grant for the disk's key is missing",
        "named at once, with what the key's policy must give",
        "EBS User Guide, Requirements for EBS encryption",
    ),
    Behaviour(
        "zone-without-capacity",
        "a zone refuses launches and starts for a long time",
        "the next zone; hosts of one deployment go into different zones",
        f"{USER_GUIDE}, Troubleshoot launch issues",
    ),
    Behaviour(
        "zone-without-default-subnet",
        "a launch into a zone without a default subnet: `InvalidInput`",
        "only zones with a subnet are tried",
        "VPC User Guide, Default subnets",
    ),
    Behaviour(
        "no-default-vpc",
        "an account without a default VPC: `VPCIdNotSpecified`",
        "`MONAI_AWS_SUBNETS` is asked for, and used",
        "VPC User Guide, Default VPCs",
    ),
    Behaviour(
        "full-subnet",
        "a subnet without a free address: `InsufficientFreeAddressesInSubnet`",
        "the next subnet, whatever the type; named when there is none",
        ERROR_CODES,
    ),
    Behaviour(
        "subnet-without-public-address",
        "a subnet of one's own gives machines no public address",
        "each launch asks for one",
        "VPC User Guide, IP addressing",
    ),
    Behaviour(
        "quota-of-vcpus",
        "a quota counts the vCPUs of all that runs: `VcpuLimitExceeded`",
        "smaller types and other quotas are tried; then the command that asks for more",
        f"{USER_GUIDE}, EC2 instance type quotas",
    ),
    Behaviour(
        "no-role-for-spot",
        "the first spot request of an account needs a service-linked role",
        "the next market, or the command that makes the role",
        f"{USER_GUIDE}, Service-linked role for Spot Instance requests",
    ),
    Behaviour(
        "endpoint-takes-minutes",
        "a new EC2 Instance Connect Endpoint is `create-in-progress` for some minutes",
        "named, and a missing endpoint with the command that makes one",
        f"{USER_GUIDE}, Create an EC2 Instance Connect Endpoint",
    ),
    Behaviour(
        "machine-without-public-address",
        "nobody outside of its network reaches a machine without a public address",
        "`MONAI_AWS_REACH=endpoint`: SSH with the pinned host key goes through the endpoint",
        ENDPOINT,
    ),
    Behaviour(
        "tunnel-needs-permission",
        "a tunnel needs `ec2-instance-connect:OpenTunnel`, whose conditions name port, address and duration",
        "the operator role has it for port 22; where it lacks, that is named",
        f"{USER_GUIDE}, Permissions to use EC2 Instance Connect Endpoint",
    ),
    Behaviour(
        "tunnel-to-port-22",
        "an endpoint carries to ports 22 and 3389 of private addresses alone",
        "another `MONAI_AWS_SSH_PORT` is refused with the settings; what the endpoint does not take is named",
        "aidansteele/rdsconn issue 5, with AWS's words",
    ),
    Behaviour(
        "tunnel-through-groups",
        "a machine whose security group does not let the endpoint in: `Unable to connect to target`",
        "the rule names the endpoint's security group; AWS's words stand in the error",
        f"{USER_GUIDE}, Security groups for EC2 Instance Connect Endpoint; aws-cdk issue 26226",
    ),
    Behaviour(
        "tunnel-ends-after-an-hour",
        "every tunnel ends after at most 3,600 s",
        "the next command makes it anew; one that may take longer runs on and is followed through the next tunnel",
        f"{USER_GUIDE}, Connect using EC2 Instance Connect Endpoint, Limitations",
    ),
    Behaviour(
        "disk-key-without-grant",
        "a launch whose caller lacks `kms:CreateGrant` for the disk's customer key is taken, and ends: `Client.InternalError`",
        "named at once, with what the key's policy must give",
        "EBS User Guide, Requirements for EBS encryption",
    ),
    Behaviour(
        "tag-policy",
        "a service control policy denies machines and disks without a tag: `UnauthorizedOperation`, also to administrators",
        "every launch bears its owner's tag; a denial of the organisation is named as such",
        "AWS Organizations User Guide, Example SCPs for tagging resources",
    ),
    Behaviour(
        "organisation",
        "an account as organisations hand it out: no default VPC, private subnets, a customer key for disks, a tag policy",
        "works by settings alone: a machine is launched, reached and left again by the operator role",
        "AWS Organizations User Guide; VPC User Guide, Default VPCs",
    ),
    *map(_refusal, REFUSALS),
    Behaviour(
        "refusal-unknown",
        "a code that no page lists",
        "named, with AWS's own words and where codes are listed",
        "EC2 API Reference, Common errors",
    ),
    Behaviour(
        "hook-that-holds-nowhere",
        "a lifecycle hook that does not hold an instance is neither completed nor kept waiting: `ValidationError`",
        "said once; the agent completes it when the group says that it holds",
        f"{SCALING_API}, CompleteLifecycleAction",
    ),
    Behaviour(
        "hook-has-a-limit",
        "heartbeats hold an instance for 100 times a hook's timeout, at most 48 hours",
        "the agent gives back what is in hand before that",
        f"{SCALING_GUIDE}, Lifecycle hooks: keeping instances in a wait state",
    ),
    Behaviour(
        "group-of-least-size",
        "an instance cannot leave with its place where the group has its least size: `ValidationError`",
        "an idle one stays and takes jobs, and asks again each minute",
        f"{SCALING_API}, TerminateInstanceInAutoScalingGroup",
    ),
    Behaviour(
        "instance-of-the-pool",
        "TerminateInstanceInAutoScalingGroup is not for instances of a warm pool",
        "one that waits in the pool asks for no end",
        f"{SCALING_API}, TerminateInstanceInAutoScalingGroup",
    ),
    Behaviour(
        "protection-in-service",
        "an instance is protected from scale-in in service alone",
        "jobs are taken in service alone; protected before the first",
        f"{SCALING_GUIDE}, Use instance scale-in protection",
    ),
    Behaviour(
        "refresh-that-fails",
        "an instance refresh that replaces no further instance for an hour fails; with `AutoRollback` what was there before comes back",
        "the run fails with the group's outcome and AWS's reason; the old version is in service",
        f"{SCALING_GUIDE}, How an instance refresh works; Undo changes with a rollback",
    ),
    *SERVICES,
    *IMAGING,
)

NOT_IMITATED = (
    ("Security groups filter no packets but an endpoint's, subnets have no routes", "machines share this computer's network"),
    ("An endpoint speaks plain HTTP, throttles nothing and has no limit of 20 tunnels", "it is this computer's loopback"),
    ("GPUs, types, network and disk performance", "a machine is a container on this computer; types differ in name and vCPU count only"),
    (
        "EBS: disks are not encrypted; of a customer's key only `kms:CreateGrant` is asked, and keys that KMS lacks are names",
        "every other missing permission ends a machine in the same way",
    ),
    ("NotFound is counted, not timed, and searches by tag find new things at once", "a test is to be the same each time"),
    ("Prices, credit balances, spot prices and their interruptions by themselves", "interruptions are ordered"),
    (
        "EC2 Auto Scaling: launch configurations, load balancers, scheduled and predictive scaling, hibernation, strategies, weights",
        "no fleet of this system asks for them; the last two are taken and not looked at, the others refused",
    ),
    ("EC2 Auto Scaling moves no instance to balance zones", "machines of one computer are in zones by name only"),
    ("A terminating hook holds no instance whose machine is off or gone", "nobody is there to complete it: tests would wait for its end"),
    *NOT_IMITATED_OF_SERVICES,
    *NOT_IMITATED_OF_IMAGING,
)
"""(what, why)."""

HEAD = """# How hard the embedded AWS is

Where AWS refuses, the embedded AWS refuses, by default and with its words; each such behaviour has a test that shows it, and one that shows
how the system lives through it (`make fidelity`, which writes build/fidelity.json). This page is written by a test from
`tests/fidelity/register.py`.

"""


def page() -> str:
    """The content of docs/fidelity.md."""
    rows = [f"| `{each.id}` | {each.aws} | {each.system} | {each.source} |" for each in BEHAVIOURS]
    imitated = f"## What is imitated ({len(rows)})\n\n| Behaviour | AWS | The system | Source |\n|---|---|---|---|\n" + "\n".join(rows)
    reasons = "\n".join(f"| {what} | {why} |" for what, why in NOT_IMITATED)
    return f"{HEAD}{imitated}\n\n## What is not, and why\n\n| Not imitated | Why |\n|---|---|\n{reasons}\n"
