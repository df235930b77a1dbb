#!/usr/bin/env bash
# Starts the job on EMR Serverless, in the application and with the role that emr-serverless.yaml makes.
#
#   APPLICATION=00f1r7b1abcd2345 JOB_ROLE=arn:aws:iam::111122223333:role/… serverless/emr_serverless.sh
#     --wait      also wait until it has ended: exit code 0 if the job has succeeded, else 1
#     --dry-run   print the call and start nothing
#     -- --full   pass what follows -- to the job
#
# Exit code 2: wrong usage or environment. 130: Ctrl-C, 143: SIGTERM. If a run goes on, the message says so.
# Uses only what bash 3.2 knows, since that is what macOS has.
# shellcheck disable=SC2153 # some settings are assigned by eval
set -euo pipefail

# ------------------------------------------------------------------------------------ settings

# Bucket, script, input, output and region are in dl.cfg.
: "${APPLICATION:=}"          # the id of the application
: "${JOB_ROLE:=}"             # ARN of the job's role
: "${RUN_NAME:=sparkify-etl}"
: "${EXECUTORS:=3}"           # at most, of 4 vCPUs each, plus a driver of 4: see MaxCores of the stack
: "${POLL_SECONDS:=15}"       # between two requests while waiting: the CLI has no waiter for runs

# ------------------------------------------------------------------------------------ usage and dl.cfg

die() {
  printf 'emr_serverless.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

wait='' dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --wait) wait=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) sed '1d; /^# shellcheck/d; /^set /d; /^# -.* usage/,$d; s/^# \{0,1\}//' "$0" && exit ;;
    --) shift && break ;;
    *) die "unknown option: ${1%%=*}; known: --wait, --dry-run, --help, and -- before options of the job" ;;
  esac
  shift
done
[ -n "$APPLICATION" ] || die "APPLICATION is empty; it is an output of the stack (docs/deploy.md)"
[ -n "$JOB_ROLE" ] || die "JOB_ROLE is empty; it is an output of the stack (docs/deploy.md)"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
settings=$(python3 "$here/create_s3.py" --print-settings) || exit 2
eval "$settings"
export AWS_PAGER='' AWS_DEFAULT_OUTPUT=text AWS_DEFAULT_REGION=$REGION

# ------------------------------------------------------------------------------------ the call

# Only in a bucket of your account: its owner decides what runs as that role
account=$(aws sts get-caller-identity --query Account) || die "AWS rejects these credentials"
aws s3api head-object --bucket "$BUCKET" --key "$SCRIPT" --expected-bucket-owner "$account" >/dev/null ||
  die "s3://$BUCKET/$SCRIPT does not exist, or the bucket belongs to another account; run: python create_s3.py"

job=(
  "s3://$BUCKET/$SCRIPT"
  --mode S3 --song-data "$SONG_DATA" --log-data "$LOG_DATA" --output "$OUTPUT" --max-bad-percent "$MAX_BAD_PERCENT" "$@"
)
driver=$(python3 - "--conf spark.dynamicAllocation.maxExecutors=$EXECUTORS" "${job[@]}" <<'END'
import json, sys
spark, script, *arguments = sys.argv[1:]
job = {"entryPoint": script, "entryPointArguments": arguments, "sparkSubmitParameters": spark}
print(json.dumps({"sparkSubmit": job}))
END
)
logs=s3://$BUCKET/emr-logs/
call=(
  aws emr-serverless start-job-run
  --region "$REGION"
  --application-id "$APPLICATION"
  --execution-role-arn "$JOB_ROLE"
  --name "$RUN_NAME"
  --execution-timeout-minutes 180 # so that a stuck run is not paid for without end
  --job-driver "$driver"
  --configuration-overrides "{\"monitoringConfiguration\": {\"s3MonitoringConfiguration\": {\"logUri\": \"$logs\"}}}"
  --tags project=sparkify
  --query jobRunId
  --output text
)
if [ -n "$dry_run" ]; then
  for word in "${call[@]}"; do
    case $word in --*) printf '\\\n  ' ;; esac
    printf '%q ' "$word"
  done
  echo
  exit
fi

run=$("${call[@]}") || die "no run was started"
this="--region $REGION --application-id $APPLICATION --job-run-id $run"
cat <<END
started   run $run
reads     $SONG_DATA and $LOG_DATA
writes    $OUTPUT
logs      ${logs}applications/$APPLICATION/jobs/$run/
watch     aws emr-serverless get-job-run $this --query 'jobRun.[state,stateDetails]'
stop      aws emr-serverless cancel-job-run $this
END
[ -n "$wait" ] || exit 0

# ------------------------------------------------------------------------------------ waiting

trap 'die "interrupted; the run goes on" 130' INT
trap 'die "interrupted; the run goes on" 143' TERM
state=
while :; do
  state=$(aws emr-serverless get-job-run --application-id "$APPLICATION" --job-run-id "$run" --query jobRun.state) ||
    die "cannot read the state of the run, which goes on"
  case $state in SUCCESS | FAILED | CANCELLED) break ;; esac
  sleep "$POLL_SECONDS"
done
if [ "$state" = SUCCESS ]; then
  echo "The job has succeeded."
  exit
fi
echo "emr_serverless.sh: the job has not succeeded: its run is $state; the reason and the end of the driver's log:" >&2
aws emr-serverless get-job-run --application-id "$APPLICATION" --job-run-id "$run" --query jobRun.stateDetails >&2 ||
  true
for log in stdout stderr; do
  aws s3 cp "${logs}applications/$APPLICATION/jobs/$run/SPARK_DRIVER/$log.gz" - | gzip -dc | tail -n 20 >&2 ||
    echo "the driver's $log has not arrived yet" >&2
done
exit 1
