"""The names of ministack and moto that the embedded AWS hooks into, most of them private: both versions are pinned, and this fails
loudly when one of them moves. Each failure says which file of ours to look at.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

OURS = "monai_aws_pipeline/local_cloud"

NAMES = [
    # module, name, file of ours that relies on it
    ("ministack.app", "app", "server.py"),
    ("ministack.app", "AUTH", "server.py"),
    ("ministack.app", "SERVICE_HANDLERS", "server.py"),
    ("ministack.app", "SERVICE_REGISTRY", "persistence.py"),
    ("ministack.app", "_state_map", "persistence.py"),
    ("ministack.app", "_build_persistence_save_dict", "persistence.py"),
    ("ministack.core.persistence", "save_all", "persistence.py"),
    ("ministack.core.router", "SERVICE_PATTERNS", "server.py, account.py"),
    ("ministack.core.router", "detect_service", "server.py"),
    ("ministack.core.router", "extract_access_key_id", "server.py, ecr.py"),
    ("ministack.core.router", "extract_region", "server.py"),
    ("ministack.core.iam_actions", "access_denied_response", "server.py, authorization.py"),
    ("ministack.core.iam_actions", "extract_iam_action", "server.py, authorization.py"),
    ("ministack.core.iam_actions", "extract_resource_arn", "authorization.py"),
    ("ministack.core.iam_actions", "SERVICE_TO_IAM_NAMESPACE", "account.py"),
    ("ministack.core.iam_actions", "_BOTOCORE_SERVICE_MAP", "account.py"),
    ("ministack.core.iam_evaluator", "AuthError", "server.py"),
    ("ministack.core.iam_evaluator", "enforce", "authorization.py, ecr.py"),
    ("ministack.core.iam_evaluator", "is_root_access_key", "identity.py"),
    ("ministack.core.iam_actions", "_match_rest_action", "imaging.py"),
    ("ministack.core.iam_evaluator", "pin_signed_request", "server.py"),
    ("ministack.core.iam_evaluator", "_signed_request", "ecr.py"),
    ("ministack.core.iam_evaluator", "_anonymous", "ecr.py"),
    ("ministack.core.responses", "get_region", "ssm.py, ecr.py"),
    ("ministack.core.responses", "set_request_account_id", "identity.py, ecr.py"),
    ("ministack.core.responses", "set_request_region", "ecr.py"),
    ("ministack.core.responses", "json_response", "ssm.py, ecr.py, account.py"),
    ("ministack.core.responses", "error_response_json", "ecr.py"),
    ("ministack.services.iam", "_users", "identity.py"),
    ("ministack.services.iam", "_roles", "identity.py"),
    ("ministack.services.iam", "_access_keys", "identity.py"),
    ("ministack.services.iam", "_instance_profiles", "identity.py"),
    ("ministack.services.iam", "_user_inline_policies", "identity.py"),
    ("ministack.services.iam", "_now", "identity.py"),
    ("ministack.services.sts", "_sessions", "identity.py"),
    ("ministack.services.sts", "register_session", "identity.py"),
    ("ministack.services.sts", "_evict_expired_sessions", "identity.py"),
    ("ministack.core.iam_actions", "_lambda_action", "authorization.py"),
    ("ministack.services.sts", "is_root_access_key", "identity.py"),
    ("ministack.services.tagging", "resource_tags", "authorization.py"),
    ("ministack.services.ssm", "_commands", "ssm.py"),
    ("ministack.services.ssm", "_managed_instance_ids", "ssm.py"),
    ("ministack.services.ssm", "_finish_invocation", "ssm.py"),
    ("ministack.services.ssm", "_refresh_command_status", "ssm.py"),
    ("ministack.services.ssm", "_describe_instance_information", "ssm.py"),
    ("ministack.services.ssm", "_PUBLIC_AMI_PARAMETERS", "ssm.py"),
    ("ministack.services.s3", "_deliver_event_to_sqs", "events.py"),
    ("ministack.services.s3", "esm_wake", "events.py"),
    ("ministack.services.sns", "_topics", "account.py"),
    ("ministack.services.budgets", "_create_budget", "account.py"),
    ("ministack.services.budgets", "_budgets", "account.py"),
    ("ministack.services.budgets", "_notification_store", "account.py"),
    ("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS", "account.py, imaging.py"),
    ("ministack.services.sqs", "_queues", "events.py, alarms.py"),
    ("ministack.services.sqs", "_queue_url", "events.py"),
    ("ministack.services.sqs", "_queue_by_arn", "first_uses.py"),
    ("ministack.services.sqs", "_Err", "queue_limits.py"),
    ("ministack.services.sqs", "_get_q", "queue_limits.py"),
    ("ministack.services.sqs", "_HANDLERS", "queue_limits.py"),
    ("ministack.services.s3", "_multipart_uploads", "multipart_dates.py"),
    ("ministack.services.s3", "_qp", "multipart_dates.py"),
    ("ministack.services.s3", "now_iso", "multipart_dates.py"),
    ("ministack.services.iam", "_roles", "stacks.py"),
    ("ministack.services.secretsmanager", "_secrets", "stacks.py"),
    ("ministack.services.cloudformation.engine", "_evaluate_conditions", "stacks.py"),
    ("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS", "stacks.py"),
    ("ministack.services.lambda_svc", "_functions", "functions.py, invocations.py"),
    ("ministack.services.lambda_svc", "_get_func_record_for_ref", "invocations.py"),
    ("ministack.services.lambda_svc", "_execution_record_for_config", "invocations.py"),
    ("ministack.services.s3", "_invalid_notification_config", "invocations.py"),
    ("ministack.services.scheduler", "_error", "invocations.py"),
    ("ministack.core.iam_evaluator", "EvalContext", "invocations.py"),
    ("ministack.core.iam_evaluator", "evaluate_resource_policy", "invocations.py"),
    ("ministack.core.iam_evaluator", "_gather_role_policies", "invocations.py"),
    ("ministack.services.cloudwatch", "_alarms", "alarms.py"),
    ("ministack.services.cloudwatch", "_metrics", "alarms.py"),
    ("ministack.services.cloudwatch", "_calc_stats", "alarms.py"),
    ("ministack.services.cloudwatch", "_stat_value", "alarms.py"),
    ("ministack.services.cloudwatch", "_record_history", "alarms.py"),
    ("ministack.services.cloudwatch", "_dispatch_alarm_actions", "alarms.py"),
    ("ministack.services.cloudwatch", "_evaluate_parent_alarms", "alarms.py"),
    ("ministack.services.cloudwatch", "record_metric", "alarms.py"),
    ("ministack.services.ecr", "handle_request", "ecr.py"),
    ("ministack.services.ecr", "_repositories", "ecr.py"),
    ("ministack.services.ecr", "_images", "ecr.py"),
    ("ministack.services.ecr", "_lifecycle_policies", "ecr.py"),
    ("ministack.services.ecr", "_repo_uri", "ecr.py"),
    ("ministack.services.ecr", "_create_repository", "ecr.py"),
    ("moto.moto_server.werkzeug_app", "DomainDispatcherApplication", "server.py"),
    ("moto.moto_server.werkzeug_app", "create_backend_app", "server.py"),
    ("moto.ec2.models", "ec2_backends", "ec2.py"),
    ("moto.ec2.exceptions", "EC2ClientError", "ec2.py"),
    ("moto.ec2.exceptions", "InvalidAMIIdError", "ec2.py"),
    ("moto.ec2.exceptions", "UnvailableAMIIdError", "ec2.py"),
    ("moto.ec2.utils", "filter_iam_instance_profiles", "ec2.py"),
    ("moto.ec2.models.iam_instance_profile", "filter_iam_instance_profiles", "ec2.py"),
    ("moto.ec2.responses.instances", "filter_iam_instance_profiles", "ec2.py"),
    ("moto.ec2.models.instances", "StateReason", "ec2.py"),
    ("moto.ec2.models.instance_types", "INSTANCE_TYPES", "ec2.py"),
    ("moto.ec2.models.amis", "Ami.block_device_mappings", "ec2_disks.py"),
    ("moto.ec2.models.amis", "Ami.__init__", "ec2_disks.py"),
    ("moto.ec2.models.instances", "InstanceBackend._get_template_from_args", "ec2_disks.py"),
    ("moto.ec2.models.subnets", "Subnet.available_ip_address_count", "ec2.py"),
]

PARAMETERS = [
    ("ministack.core.iam_evaluator", "pin_signed_request", ["method", "raw_path", "query_params", "raw_headers", "handshake"]),
    (
        "moto.ec2.models.instances",
        "InstanceBackend.run_instances",
        ["self", "image_id", "count", "user_data", "security_group_names", "kwargs"],
    ),
    ("moto.ec2.models.instances", "InstanceBackend.start_instances", ["self", "instance_ids"]),
    ("moto.ec2.models.instances", "InstanceBackend.stop_instances", ["self", "instance_ids"]),
    ("moto.ec2.models.instances", "InstanceBackend.reboot_instances", ["self", "instance_ids"]),
    ("moto.ec2.models.instances", "InstanceBackend.terminate_instances", ["self", "instance_ids"]),
    ("moto.ec2.models.amis", "AmiBackend.create_image", ["self", "instance_id", "name", "description", "tag_specifications"]),
    ("moto.ec2.models.amis", "AmiBackend.copy_image", ["self", "source_image_id", "source_region", "name", "description"]),
    ("moto.ec2.models.amis", "AmiBackend.deregister_image", ["self", "ami_id"]),
    ("ministack.core.iam_evaluator", "enforce", ["access_key_id", "iam_action", "service", "region", "resource_arn", "service_context"]),
    (
        "ministack.core.iam_actions",
        "extract_resource_arn",
        ["service", "method", "path", "headers", "body", "query_params", "region", "account_id"],
    ),
    ("ministack.core.iam_actions", "extract_iam_action", ["service", "method", "path", "headers", "body", "query_params"]),
    ("ministack.services.ssm", "_finish_invocation", ["command_id", "instance_id", "argv"]),
    ("ministack.services.ssm", "_describe_instance_information", ["data"]),
    ("ministack.services.ecr", "_repo_uri", ["name"]),
    ("ministack.services.s3", "_deliver_event_to_sqs", ["arn", "event_payload", "bucket_region", "bucket_name"]),
    ("ministack.services.sqs", "_collect_msgs", ["q", "max_n", "vis_timeout"]),
    ("ministack.services.sqs", "_act_change_visibility", ["data", "qurl"]),
    ("ministack.services.ssm", "_send_command", ["data"]),
    ("ministack.services.s3", "_complete_multipart_upload", ["bucket_name", "key", "body", "query_params", "headers"]),
    ("ministack.services.s3", "_deliver_event_to_lambda", ["arn", "event_payload", "bucket_region"]),
    (
        "ministack.services.s3",
        "_validate_notification_configs",
        ["configs", "bucket_region", "bucket_name", "skip_destination_validation"],
    ),
    ("ministack.services.s3", "_notification_destination_allows", ["target_type", "arn", "bucket_name", "owner"]),
    (
        "ministack.services.sns",
        "_deliver_to_lambda",
        ["endpoint", "envelope", "topic_arn", "sub_arn", "msg_id", "raw_message", "message_attributes"],
    ),
    ("ministack.services.eventbridge", "_invoke_target", ["target", "event", "rule", "view"]),
    ("ministack.services.eventbridge", "_dispatch_to_lambda", ["arn", "payload"]),
    ("ministack.services.scheduler", "_create_schedule", ["name", "body"]),
    ("ministack.services.lambda_svc", "_schedule_state_transition", ["func_name", "delay"]),
    ("ministack.services.lambda_svc", "_create_function", ["data"]),
    ("ministack.services.lambda_svc", "_create_esm", ["data"]),
    ("ministack.services.lambda_svc", "_update_code", ["name", "data"]),
    ("ministack.services.lambda_svc", "_update_config", ["name", "data"]),
    ("ministack.services.lambda_svc", "_invoke", ["name", "event", "headers", "path_qualifier", "query_params"]),
    ("ministack.services.lambda_svc", "invoke_async_with_retry", ["func", "event"]),
    ("ministack.services.cloudformation.changesets", "_resolve_props_for_diff", ["template", "params", "stack_name", "stack_id"]),
    ("ministack.services.cloudwatch", "_evaluate_alarm", ["alarm"]),
    ("ministack.services.cloudwatch", "_put_metric_alarm", ["params", "cbor_data", "is_cbor", "is_json"]),
    (
        "ministack.services.lambda_svc",
        "_emit_lambda_logs",
        ["func", "request_id", "log_text", "error", "duration_ms", "log_source"],
    ),
    ("ministack.services.tagging", "resource_tags", ["arn"]),
]


@pytest.mark.parametrize(("package", "pinned"), [("ministack", "1.5.33"), ("moto", "5.2.5"), ("boto3", "1.43.106")])
def test_the_versions_are_the_ones_this_was_written_for(package: str, pinned: str):
    assert version(package) == pinned, f"read {OURS}/*.py against the new {package} before changing this pin"


@pytest.mark.parametrize(("module", "name", "file"), NAMES, ids=[f"{module}.{name}" for module, name, _ in NAMES])
def test_a_name_we_hook_into_exists(module: str, name: str, file: str):
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    assert found is not None, f"{module}.{name} is gone: look at {OURS}/{file.replace(', ', f' and {OURS}/')}"


@pytest.mark.parametrize(("module", "path", "expected"), PARAMETERS, ids=[path for _, path, _ in PARAMETERS])
def test_what_we_wrap_takes_the_parameters_we_pass_on(module: str, path: str, expected: list[str]):
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == expected, f"{module}.{path} changed: look at the wrapper of that name in {OURS}"


def test_ministack_looks_its_hooks_up_when_it_calls_them():
    """Replaced module attributes work only where the original is called by name at call time, not kept at import."""
    from ministack import app
    from ministack.services import ssm

    dispatch = inspect.getsource(app._dispatch_service_request)
    assert "from ministack.core.iam_evaluator import AuthError, enforce" in dispatch, f"look at {OURS}/authorization.py"
    assert "SERVICE_HANDLERS.get(service)" in dispatch, f"look at {OURS}/server.py"
    assert "_managed_instance_ids()" in inspect.getsource(ssm._send_command), f"look at {OURS}/ssm.py"
    assert "spawn_background(_finish_invocation" in inspect.getsource(ssm._send_command), f"look at {OURS}/ssm.py"


def test_the_server_listens_nowhere_by_being_imported():
    """Importing our server module starts nothing; ministack and moto are imported only when a cloud is made."""
    script = "import sys, monai_aws_pipeline.local_cloud.server; print(any(n.split('.')[0] in ('ministack', 'moto') for n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "False"
