#!/bin/sh
# Starts one of a team's Dagster processes in its container, or the command that it is given (a run of ECS).
#
#   entrypoint.sh code              the code location, on all addresses of the container's own network
#   entrypoint.sh daemon            schedules, sensors, the queue of runs
#   entrypoint.sh webserver HOST    the UI, which has no login of its own: HOST says who can reach it
#
# MONAI_AWS_DAGSTER    which dagster.yaml of infra/team (default dagster.yaml)
# DAGSTER_POSTGRES_PASSWORD_FILE    a file with PostgreSQL's password, where it does not come in DAGSTER_POSTGRES_PASSWORD
# MONAI_AWS_BECOME     ARN of the role to become with the task's own; the SDK renews it for as long as the process lives
set -eu

team=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$DAGSTER_HOME"
cp "$team/${MONAI_AWS_DAGSTER:-dagster.yaml}" "$DAGSTER_HOME/dagster.yaml"

if [ -n "${DAGSTER_POSTGRES_PASSWORD_FILE:-}" ]; then
  DAGSTER_POSTGRES_PASSWORD=$(cat "$DAGSTER_POSTGRES_PASSWORD_FILE")
  export DAGSTER_POSTGRES_PASSWORD
fi

if [ -n "${MONAI_AWS_BECOME:-}" ]; then
  export AWS_CONFIG_FILE="$DAGSTER_HOME/aws-config" AWS_PROFILE=operator
  printf '[profile operator]\nrole_arn = %s\ncredential_source = %s\n' "$MONAI_AWS_BECOME" "${MONAI_AWS_BECOME_WITH:-EcsContainer}" >"$AWS_CONFIG_FILE"
fi

case ${1:-} in
  code)
    exec dagster code-server start -h 0.0.0.0 -p 4000 -m monai_aws_pipeline.definitions ;;
  daemon)
    # Dagster learns of a pool when a run of it is queued, one pass too late for that run.
    dagster instance concurrency set builds 1
    exec dagster-daemon run -w "$team/workspace.yaml" ;;
  webserver)
    exec dagster-webserver -h "${2:?which address}" -p 3000 -w "$team/workspace.yaml" ;;
  *)
    exec "$@" ;;
esac
