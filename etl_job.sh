#!/usr/bin/env bash
# Launches an EMR cluster that runs the job as its only step and then terminates.
#
#   ./etl_job.sh             check, launch, print the commands to watch and stop it
#   ./etl_job.sh --wait      also wait until it has terminated: exit code 0 if the job has succeeded, else 1
#   ./etl_job.sh --dry-run   check, print the call and launch nothing
#   ./etl_job.sh -- --full   pass what follows -- to the job
#
# Exit code 2: wrong usage or environment. 130: Ctrl-C, 143: SIGTERM. If a cluster goes on, the message says so.
# Uses only what bash 3.2 knows, since that is what macOS has.
# shellcheck disable=SC2153 # some settings are assigned by eval
set -euo pipefail

# ------------------------------------------------------------------------------------ settings

# Change them here, or for one run by an environment variable: NODES=6 SPOT=yes ./etl_job.sh
# Bucket, script, input, output and region are in dl.cfg.
: "${CLUSTER_NAME:=sparkify-etl}"
: "${EMR_RELEASE:=emr-5.30.0}"                    # out of support since 2026-09-01; emr-7.12.0 is a current one
: "${NODES:=3}"                                   # one primary node, the rest are core nodes
: "${INSTANCE_TYPE:=m5.xlarge}"                   # of all nodes
: "${SPOT:=no}"                                   # yes: core nodes on spot, for at most the on-demand price
: "${SUBNET:=}"                                   # subnet-…; else EMR takes the default network
: "${KEY_PAIR:=}"                                 # EC2 key pair, to log in to the nodes
: "${SERVICE_ROLE:=EMR_DefaultRole}"              # EMR's role
: "${INSTANCE_PROFILE:=EMR_EC2_DefaultRole}"      # the role of the nodes, and so of the job
: "${CLUSTER_TAGS:=project=sparkify}"             # separated by spaces: project=sparkify team=data

# ------------------------------------------------------------------------------------ usage and dl.cfg

die() {
  printf 'etl_job.sh: %s\n' "$1" >&2
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
[ "$NODES" -ge 2 ] 2>/dev/null || die "NODES is $NODES; it must be a number, at least 2: a primary node and core nodes"
[ "$SPOT" = yes ] || [ "$SPOT" = no ] || die "SPOT is $SPOT; it must be yes or no"
command -v aws >/dev/null || die "the aws CLI is missing: https://aws.amazon.com/cli"

# BUCKET, SCRIPT, CHECKSUM, SONG_DATA, LOG_DATA, OUTPUT, MAX_BAD_PERCENT and REGION, quoted for a shell
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
settings=$(python3 "$here/create_s3.py" --print-settings) || exit 2
eval "$settings"
export AWS_PAGER='' AWS_DEFAULT_OUTPUT=text AWS_DEFAULT_REGION=$REGION

# ------------------------------------------------------------------------------------ checks, before paying

account=$(aws sts get-caller-identity --query Account) || die "AWS rejects these credentials"

# Prints the checksum of an uploaded file. The bucket must belong to your account: its owner decides what your roles run.
check_uploaded() {
  aws s3api head-object --bucket "$BUCKET" --key "$1" --expected-bucket-owner "$account" \
    --checksum-mode ENABLED --query ChecksumSHA256 ||
    die "s3://$BUCKET/$1 does not exist, or the bucket belongs to another account; run: python create_s3.py"
}
known=$(check_uploaded "$SCRIPT")
[ "$known" = "$CHECKSUM" ] ||
  echo "etl_job.sh: the etl.py in the bucket, which will run, is not the local one; to upload that: python create_s3.py" >&2

for folder in "$SONG_DATA" "$LOG_DATA"; do
  place=${folder#s3://}/
  bucket=${place%%/*} prefix=${place#*/}
  # The S3 console marks a folder by an empty object of its name, which does not count
  count=$(aws s3api list-objects-v2 --bucket "$bucket" --prefix "$prefix" --start-after "$prefix" --max-keys 1 \
    --no-paginate --query KeyCount) || die "cannot list the input $folder"
  [ "$count" != 0 ] || die "the input $folder/ is empty"
done

check_role() {
  local complaint
  complaint=$(aws iam "$@" 2>&1 >/dev/null) || case $complaint in
    *AccessDenied*) ;; # a user who may pass a role may lack the permission to read it
    *) die "$complaint; step 4 of docs/aws-tutorial.md makes the roles, or: aws emr create-default-roles" ;;
  esac
}
check_role get-role --role-name "${SERVICE_ROLE##*/}"
check_role get-instance-profile --instance-profile-name "${INSTANCE_PROFILE##*/}"

# ------------------------------------------------------------------------------------ the call

spark=(
  --deploy-mode cluster                                 # the driver on a core node
  --conf spark.yarn.maxAppAttempts=1                    # a second attempt would hide why the first failed
  --conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=python3 # EMR before 5.30.0 takes Python 2
)
# Of the 16 GiB of an m5.xlarge EMR gives YARN 12: 8 + 1 for an executor on each core node leave 2 + 1 for the driver on
# one of them (docs/deploy.md). Other types have EMR's own settings.
[ "$INSTANCE_TYPE" != m5.xlarge ] || spark=(
  "${spark[@]}"
  --conf spark.driver.memory=2g --conf spark.driver.memoryOverhead=1g
  --conf spark.executor.cores=4 --conf spark.executor.memory=8g --conf spark.executor.memoryOverhead=1g
  --conf spark.executor.instances=$((NODES - 1)) --conf spark.dynamicAllocation.enabled=false
)
job=(
  "s3://$BUCKET/$SCRIPT"
  --mode S3 --song-data "$SONG_DATA" --log-data "$LOG_DATA" --output "$OUTPUT" --max-bad-percent "$MAX_BAD_PERCENT" "$@"
)
args=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${spark[@]}" "${job[@]}")

core="InstanceGroupType=CORE,InstanceCount=$((NODES - 1)),InstanceType=$INSTANCE_TYPE"
[ "$SPOT" = no ] || core=$core,BidPrice=OnDemandPrice
attributes=InstanceProfile=$INSTANCE_PROFILE${SUBNET:+,SubnetId=$SUBNET}${KEY_PAIR:+,KeyName=$KEY_PAIR}
start=()
case $EMR_RELEASE in # nodes of these let a process open 4,096 files, too few for Spark
  emr-5.30.* | emr-5.31.0 | emr-5.32.0)
    check_uploaded "$(dirname "$SCRIPT")/open-files.sh" >/dev/null
    start=(--bootstrap-actions "Name=open-files,Path=s3://$BUCKET/$(dirname "$SCRIPT")/open-files.sh")
    ;;
esac
IFS=' ' read -r -a tags <<<"$CLUSTER_TAGS"

call=(
  aws emr create-cluster
  --region "$REGION"
  --name "$CLUSTER_NAME"
  --release-label "$EMR_RELEASE"
  --applications Name=Spark
  --instance-groups "InstanceGroupType=MASTER,InstanceCount=1,InstanceType=$INSTANCE_TYPE" "$core"
  --ec2-attributes "$attributes"
  --service-role "$SERVICE_ROLE"
  ${start[@]+"${start[@]}"}
  --log-uri "s3://$BUCKET/emr-logs/"
  --tags "${tags[@]}"
  --steps "[{\"Type\": \"Spark\", \"Name\": \"job\", \"ActionOnFailure\": \"TERMINATE_CLUSTER\", \"Args\": $args}]"
  --auto-terminate
  --query ClusterId
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

# One attempt only: if the answer was lost, another one could launch a second cluster
cluster=$(AWS_MAX_ATTEMPTS=1 "${call[@]}") ||
  die "no cluster was launched, unless AWS's answer was lost; check: aws emr list-clusters --active --region $REGION"

cat <<END
launched  $cluster, which terminates when the job has ended
reads     $SONG_DATA and $LOG_DATA
writes    $OUTPUT
logs      s3://$BUCKET/emr-logs/$cluster/ (some minutes late)
watch     aws emr list-steps --region $REGION --cluster-id $cluster --query 'Steps[].Status'
stop      aws emr terminate-clusters --region $REGION --cluster-ids $cluster
END
[ -n "$wait" ] || exit 0

# ------------------------------------------------------------------------------------ waiting

goes_on="the cluster $cluster goes on and terminates when the job has ended"
trap 'die "interrupted; $goes_on" 130' INT
trap 'die "interrupted; $goes_on" 143' TERM
state=
until [ "$state" = TERMINATED ] || [ "$state" = TERMINATED_WITH_ERRORS ]; do
  aws emr wait cluster-terminated --cluster-id "$cluster" 2>/dev/null || true # gives up after half an hour
  state=$(aws emr describe-cluster --cluster-id "$cluster" --query Cluster.Status.State) ||
    die "cannot read the state of the cluster; $goes_on"
done
unseen="the cluster has terminated, but the state of its step cannot be read"
id=$(aws emr list-steps --cluster-id "$cluster" --query 'Steps[0].Id') || die "$unseen"
state=$(aws emr describe-step --cluster-id "$cluster" --step-id "$id" --query Step.Status.State) || die "$unseen"
if [ "$state" = COMPLETED ]; then
  echo "The job has succeeded and the cluster has terminated."
  exit
fi

# The job's output is that of its driver, which runs in the first container
echo "etl_job.sh: the job has not succeeded: its step is $state; EMR's reason and the end of the job's log:" >&2
aws emr describe-cluster --cluster-id "$cluster" --query Cluster.Status.StateChangeReason.Message >&2 || true
key=$(aws s3api list-objects-v2 --bucket "$BUCKET" --prefix "emr-logs/$cluster/containers/" \
  --query "Contents[?ends_with(Key, '_000001/stdout.gz')].[Key]" | tail -n 1) || key=
aws s3 cp "s3://$BUCKET/$key" - | gzip -dc | tail -n 20 >&2 || echo "the log has not arrived yet: s3://$BUCKET/emr-logs/$cluster/" >&2
exit 1
