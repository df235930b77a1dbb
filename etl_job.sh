#!/usr/bin/env bash
# Launches an EMR cluster that runs the job as its only step and then ends by itself; with APPLICATION set, starts the job
# on EMR Serverless instead.
#
#   ./etl_job.sh             check everything, launch, say what it costs and how to watch it
#   ./etl_job.sh --wait      and wait until it has ended; exit with what became of the job
#   ./etl_job.sh --dry-run   check everything and print the call instead
#   ./etl_job.sh --help      all options and settings
#
# Uses only what bash 3.2 knows, since that is what macOS has.
# shellcheck disable=SC2153 # settings are assigned by name, from a table
set -euo pipefail

# ------------------------------------------------------------------------------------ settings, as data

# An environment variable of the same name beats dl.cfg (its section is the second column), which beats the default.
# BUCKET at the beginning of a default is the setting of that name.
SETTINGS='
BUCKET           | S3      | sparkify-dl-sp               | the bucket that create_s3.py has made
SCRIPT           | S3      | sparkify-scripts/spark-etl.py | the job in it
SONG_DATA        | S3      | s3://udacity-dend/song_data  | song metadata
LOG_DATA         | S3      | s3://udacity-dend/log_data   | event logs
OUTPUT           | S3      | s3://BUCKET/sparkify-data    | where the lake is
MAX_BAD_PERCENT  | PROJECT |                              | the run fails when more of an input is bad
RELEASE          |         | emr-5.30.0                   | EMR release
NODES            |         | 3                            | one primary node, the rest are core nodes
INSTANCE_TYPE    |         | m5.xlarge                    | of all nodes
SPOT             |         | no                           | yes: core nodes on spot, up to the on-demand price
SUBNET           |         |                              | where the cluster is, else the default network
KEY              |         |                              | EC2 key pair, to log in to the nodes
SERVICE_ROLE     |         | EMR_DefaultRole              | what EMR acts as
INSTANCE_PROFILE |         | EMR_EC2_DefaultRole          | what the nodes, and so the job, act as
LOG_URI          |         | s3://BUCKET/emr-logs/        | logs; create_s3.py has that folder emptied after 30 days
NAME             |         | sparkify-etl                 | of the cluster
APPLICATION      |         |                              | EMR Serverless application, in place of a cluster
JOB_ROLE         |         |                              | ARN of the role that the job has there
TAGS             |         |                              | more tags than project=sparkify: team=data,env=test
REGION           |         |                              | else AWS_REGION, AWS_DEFAULT_REGION, dl.cfg, us-west-2
POLL_SECONDS     |         | 15                           | between two looks while waiting
POLL_FAILURES    |         | 20                           | failed looks in a row before waiting ends
'

# On-demand prices of us-west-2 in dollars an hour, as of 2024. An estimate: AWS may have changed them since.
PRICES_OF='2024'
INSTANCES='
type        vCPU  GiB   EC2    EMR
m5.xlarge      4   16  0.192  0.048
m5.2xlarge     8   32  0.384  0.096
m5.4xlarge    16   64  0.768  0.192
r5.xlarge      4   32  0.252  0.063
r5.2xlarge     8   64  0.504  0.126
c5.xlarge      4    8  0.170  0.043
c5.2xlarge     8   16  0.340  0.085
'

# How the memory of a core node, in GiB, is shared out (docs/emr.md has the reasons). All are whole numbers, so that
# whatever YARN rounds up to, the parts still add up.
plan_memory() {
  yarn=$((memory * 3 / 4))         # what EMR itself leaves for YARN on nodes of these sizes, or a little less
  driver=2 driver_overhead=1       # the driver runs on a core node, its Python in the overhead
  executors_per_node=$((vcpus / 4)) # of four cores, so that larger nodes get more of them, not larger ones
  local container=$(((yarn - driver - driver_overhead) / executors_per_node))
  executor=$((container * 10 / 11)) # a tenth on top of the heap is Spark's own idea of the overhead
  executor_overhead=$((container - executor))
}

# The settings of Spark, in one place.
plan_spark() {
  spark=(
    --deploy-mode cluster                                 # the driver on a node of its cluster
    --conf spark.yarn.maxAppAttempts=1                    # a second attempt would hide why the first has failed
    --conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=python3 # EMR before 5.30.0 takes Python 2
  )
  configurations=
  find_instance || return 0 # of an unknown type: EMR's own settings
  plan_memory
  spark=(
    "${spark[@]}"
    --conf "spark.driver.memory=${driver}g"
    --conf "spark.driver.memoryOverhead=${driver_overhead}g"
    --conf spark.executor.cores=4
    --conf "spark.executor.memory=${executor}g"
    --conf "spark.executor.memoryOverhead=${executor_overhead}g"
    --conf "spark.executor.instances=$(((NODES - 1) * executors_per_node))"
    --conf spark.dynamicAllocation.enabled=false # the cluster is for this job alone and its size is known
  )
  configurations=$(printf '[{"Classification":"yarn-site","Properties":{%s,%s}}]' \
    "\"yarn.nodemanager.resource.memory-mb\":\"$((yarn * 1024))\"" \
    "\"yarn.scheduler.maximum-allocation-mb\":\"$((yarn * 1024))\"")
}

# Sets vcpus, memory, ec2_price and emr_price of the instance type; fails where it is not in the table.
find_instance() {
  local type
  while read -r type vcpus memory ec2_price emr_price; do
    [ "$type" != "$INSTANCE_TYPE" ] || return 0
  done <<<"$INSTANCES"
  return 1
}

# ------------------------------------------------------------------------------------ saying things

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case $0 in */*) command=$0 ;; *) command=./$0 ;; esac

say() { printf '%s\n' "$*"; }
warn() { printf 'etl_job.sh: %s\n' "$*" >&2; }

# Ends the script, with 2 unless $2 says otherwise.
die() {
  end_line
  warn "$1"
  exit "${2:-2}"
}

# Ends the script, not the cluster.
leave() {
  end_line
  warn "$1; the cluster $cluster goes on and ends by itself"
  printf '  follow it  %s\n  end it     %s\n' "$(follow_command)" "$(stop_command)" >&2
  exit "${2:-2}"
}

usage() {
  cat <<'HELP'
usage: etl_job.sh [--wait | --follow CLUSTER] [--dry-run] [--help]

Launch an EMR cluster that runs the job and then ends by itself, or start the job on EMR Serverless.

  --wait            wait until the cluster has ended; Ctrl-C ends the waiting, not the cluster
  --follow CLUSTER  launch nothing; wait for a cluster that was launched before
  --dry-run         check everything, print the call and launch nothing
  --help            show this

settings: an environment variable beats dl.cfg (in the working directory, else beside this script),
which beats the default
HELP
  each_setting print_setting
  cat <<'HELP'

Credentials are those that the aws CLI finds, else those of [AWS] in dl.cfg. AWS_ENDPOINT_URL points to
an AWS-compatible endpoint.

exit codes:
  0    launched; with --wait: the job has succeeded
  1    with --wait: the job has failed
  2    wrong usage or environment
  130  interrupted; says what became of the cluster
HELP
}

print_setting() {
  printf '  %-16s  %s%s\n' "$1" "$4" "${3:+ (default: $3)}"
}

# A word as one types it in a shell.
quoted() {
  local quote="'" inside="'\\''" word=$1
  matches "$word" '^[A-Za-z0-9_./:=,@%+-]+$' || word=$quote${word//$quote/$inside}$quote
  printf '%s' "$word"
}

# A call, an option with its values on each line.
print_call() {
  local word
  quoted "$1"
  shift
  for word in "$@"; do
    case $word in --*) printf ' \\\n ' ;; esac
    printf ' '
    quoted "$word"
  done
  printf '\n'
}

# ------------------------------------------------------------------------------------ reading settings

trim() {
  local text=$1
  text=${text#"${text%%[![:space:]]*}"}
  printf '%s' "${text%"${text##*[![:space:]]}"}"
}

# Whether a text matches an extended regular expression; [a-z] are those 26 letters in every locale.
matches() {
  local LC_ALL=C
  [[ $1 =~ $2 ]]
}

# Calls $1 with name, section, default and meaning of each setting.
each_setting() {
  local name section default meaning
  while IFS='|' read -r name section default meaning; do
    [ -z "$name" ] || "$1" "$(trim "$name")" "$(trim "$section")" "$(trim "$default")" "$(trim "$meaning")"
  done <<<"$SETTINGS"
}

find_config() {
  local file
  config=
  for file in dl.cfg "$here/dl.cfg"; do
    [ -f "$file" ] || continue
    [ -r "$file" ] || die "cannot read the configuration file $file"
    config=$file
    return
  done
}

# The value of key $2 in section [$1] of dl.cfg, read as Python's configparser does; values may hold = # % and spaces.
config_value() {
  [ -n "$1" ] && [ -n "$config" ] || return 0
  LC_ALL=C awk -v section="[$1]" -v key="$2" '
    NR == 1 { sub(/^\357\273\277/, "") }
    { sub(/\r$/, "") }
    /^\[/ { here = substr($0, 1, index($0, "]")) == section; next }
    here && match($0, /[=:]/) {
      name = substr($0, 1, RSTART - 1)
      value = substr($0, RSTART + 1)
      gsub(/^[ \t]+|[ \t]+$/, "", name)
      gsub(/^[ \t]+|[ \t]+$/, "", value)
      if (toupper(name) == key) found = value
    }
    END { print found }' "$config"
}

# Sets the variable of a setting; remembers in output_given whether somebody has typed where the lake goes.
read_setting() {
  local value
  value=$(trim "${!1:-}")
  [ "$1" != OUTPUT ] || output_given=$value
  [ -n "$value" ] || value=$(config_value "$2" "$1")
  [ -n "$value" ] || value=$3
  printf -v "$1" '%s' "$value"
}

read_settings() {
  find_config
  each_setting read_setting
  local uri
  for uri in OUTPUT LOG_URI SONG_DATA LOG_DATA; do
    local value=${!uri}
    value=${value/#s3:\/\/BUCKET\//s3://$BUCKET/}
    value=${value/#s3a:/s3:} # on EMR, s3:// is the one that is meant
    while [ "${value%/}" != "$value" ]; do value=${value%/}; done
    printf -v "$uri" '%s' "$value"
  done
  move_output
  [ -n "$REGION" ] || REGION=$(trim "${AWS_REGION:-}")
  [ -n "$REGION" ] || REGION=$(trim "${AWS_DEFAULT_REGION:-}")
  [ -n "$REGION" ] || REGION=$(config_value AWS AWS_REGION)
}

# An OUTPUT of dl.cfg that lies in dl.cfg's own or in the default bucket belongs to it: when BUCKET is another one, the
# lake goes there. Elsewhere it was put on purpose and stays.
move_output() {
  local bucket
  bucket=$(bucket_of "$OUTPUT")
  [ -z "$output_given" ] && [ "$bucket" != "$BUCKET" ] || return 0
  case $bucket in
    sparkify-dl-sp | "$(config_value S3 BUCKET)") OUTPUT=s3://$BUCKET/sparkify-data ;;
  esac
}

bucket_of() {
  local rest=${1#s3://}
  printf '%s' "${rest%%/*}"
}

# The key that all objects in the folder $1 begin with; empty for a whole bucket.
prefix_of() {
  local rest=${1#s3://}
  case $rest in */*) printf '%s/' "${rest#*/}" ;; esac
}

# ------------------------------------------------------------------------------------ checking settings

# Refuses a setting that does not match an expression; $3 says what it takes. None lets a quote or backslash through:
# they go into JSON as they are.
expect() {
  matches "${!1}" "$2" || die "$1 is ${!1:-empty}; it takes $3"
}

check_settings() {
  local uri
  expect BUCKET '^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$' "the name of a bucket"
  expect SCRIPT '^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\.py$' "folders and a name that ends in .py"
  for uri in SONG_DATA LOG_DATA OUTPUT LOG_URI; do
    expect "$uri" '^s3://[A-Za-z0-9][A-Za-z0-9._-]+(/[^"\\[:cntrl:]]*)?$' "a place in S3, like s3://bucket/folder"
  done
  expect RELEASE '^emr-[0-9]+\.[0-9]+\.[0-9]+$' "a release of EMR, like emr-5.30.0"
  expect NODES '^([2-9]|[1-9][0-9]{1,2})$' "a number from 2: a primary node and core nodes"
  expect INSTANCE_TYPE '^[a-z0-9-]+\.[a-z0-9-]+$' "a type of EC2 instance, like m5.xlarge"
  expect SPOT '^(yes|no)$' "yes or no"
  expect SUBNET '^(subnet-[0-9a-z]+)?$' "the id of a subnet, like subnet-0123456789abcdef0"
  expect KEY '^[^"\\[:cntrl:]]*$' "the name of an EC2 key pair"
  expect SERVICE_ROLE '^[A-Za-z0-9+=,.@_/:-]+$' "the name of a role"
  expect INSTANCE_PROFILE '^[A-Za-z0-9+=,.@_/:-]+$' "the name of an instance profile"
  expect APPLICATION '^[0-9a-z]*$' "the id of an EMR Serverless application, like 00f1r7b1abcd2345"
  [ -z "$APPLICATION" ] || expect JOB_ROLE '^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$' "the ARN of a role"
  expect NAME '^[A-Za-z0-9 +=._@()-]+$' "letters, digits, spaces and + = . _ @ ( ) -"
  expect TAGS '^([A-Za-z0-9 +._:/@-]+=[A-Za-z0-9 +=._:/@-]*(,|$))*$' "name=value, and more after commas"
  expect REGION '^([a-z]+(-[a-z0-9]+)+)?$' "the name of a region, like us-west-2"
  expect POLL_SECONDS '^[0-9]{1,4}$' "a number of seconds"
  expect POLL_FAILURES '^[1-9][0-9]{0,3}$' "a number from 1"
  expect MAX_BAD_PERCENT '^([0-9]+(\.[0-9]+)?)?$' "a number from 0 to 100"
  LC_ALL=C awk -v percent="${MAX_BAD_PERCENT:-0}" 'BEGIN { exit percent > 100 }' ||
    die "MAX_BAD_PERCENT is $MAX_BAD_PERCENT; it takes a number from 0 to 100"
}

# ------------------------------------------------------------------------------------ asking AWS

# Runs the aws CLI: its answer goes to $answer, what it complains about to $complaint.
ask() {
  answer=$(aws "$@" ${REGION:+--region "$REGION"} --output text --cli-connect-timeout 10 2>"$tmp/complaint") && return 0
  complaint=$(cat "$tmp/complaint")
  return 1
}

# The CLI's own commands for EMR do not look at AWS_ENDPOINT_URL.
ask_emr() { ask emr "$@" ${emr_endpoint:+--endpoint-url "$emr_endpoint"}; }

# The code of an error of AWS's in $complaint; empty where AWS has not answered.
error_code() {
  sed -n 's/.*An error occurred (\([^)]*\)).*/\1/p' <<<"$complaint"
}

# $complaint as a sentence; $1 is the permission that was needed.
explain() {
  case $(error_code) in
    InvalidClientTokenId | InvalidAccessKeyId | UnrecognizedClientException)
      say "AWS does not know the access key id: mistyped, deleted, or of another store" ;;
    SignatureDoesNotMatch | InvalidSignatureException)
      say "the secret access key does not belong to the access key id" ;;
    ExpiredToken* | RequestExpired) say "the credentials have expired: get new ones" ;;
    InvalidToken) say "the session token is not valid: get new credentials, or unset AWS_SESSION_TOKEN" ;;
    RequestTimeTooSkewed) say "the clock of this machine is wrong, and AWS takes no request from another time" ;;
    AccessDenied* | UnauthorizedOperation | 403)
      say "no permission: the credentials in use lack $1 (docs/emr.md lists all that is needed)" ;;
    '') explain_silence ;;
    *) say "AWS refused: $(redacted)" ;;
  esac
}

explain_silence() {
  case $complaint in
    *onnect*endpoint* | *imeout* | *"timed out"* | *SSL* | *onnection*)
      say "AWS cannot be reached, check the network, the region and AWS_ENDPOINT_URL: $(redacted)" ;;
    *) say "the aws CLI says: $(redacted)" ;;
  esac
}

# $complaint on one line, if it is not a whole web page, and without credentials, which an error may quote.
redacted() {
  local text=$complaint secret
  for secret in "${AWS_ACCESS_KEY_ID:-}" "${AWS_SECRET_ACCESS_KEY:-}" "${AWS_SESSION_TOKEN:-}"; do
    # A store on a laptop may have the secret "test", which every text holds
    [ "${#secret}" -lt 12 ] || text=${text//"$secret"/***}
  done
  tr -s '[:space:]' ' ' <<<"${text:0:400}" | sed 's/^ //; s/ $//'
}

# ------------------------------------------------------------------------------------ checks before launching

prepare_cli() {
  command -v aws >/dev/null ||
    die "the aws CLI is missing: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"
  export AWS_PAGER='' AWS_CLI_AUTO_PROMPT=off # it must neither page nor ask
  emr_endpoint=${AWS_ENDPOINT_URL_EMR:-${AWS_ENDPOINT_URL:-}}
  # The profile's region, as create_s3.py takes it
  [ -n "$REGION" ] || REGION=$(aws configure get region 2>/dev/null) || REGION=us-west-2
  tmp=$(mktemp -d "${TMPDIR:-/tmp}/etl_job.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
}

check_credentials() {
  ask sts get-caller-identity && return
  case $complaint in
    *"Unable to locate credentials"*) ;;
    *"Partial credentials"*) die "half of the credentials is missing: $(redacted)" ;;
    *) die "$(explain sts:GetCallerIdentity)" ;;
  esac
  use_credentials_of_config
  ask sts get-caller-identity || die "$(explain sts:GetCallerIdentity)"
}

# All three or none: an id from one place does not go with a secret from another.
use_credentials_of_config() {
  local key
  AWS_ACCESS_KEY_ID=$(config_value AWS AWS_ACCESS_KEY_ID)
  AWS_SECRET_ACCESS_KEY=$(config_value AWS AWS_SECRET_ACCESS_KEY)
  AWS_SESSION_TOKEN=$(config_value AWS AWS_SESSION_TOKEN)
  [ -n "$AWS_ACCESS_KEY_ID" ] && [ -n "$AWS_SECRET_ACCESS_KEY" ] ||
    die "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,\
 or fill in [AWS] of dl.cfg"
  # Into the environment, which only this user can read; everybody can read a command line
  for key in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; do
    if [ -n "${!key}" ]; then export "${key?}"; else unset "$key"; fi
  done
}

# The job must have been uploaded. That it is an older one may be meant.
check_script() {
  local uri=s3://$BUCKET/$SCRIPT
  if ! ask s3api get-object --bucket "$BUCKET" --key "$SCRIPT" "$tmp/script"; then
    case $(error_code) in
      NoSuchKey | NoSuchBucket | 404) die "the job is not at $uri; run: python create_s3.py" ;;
      *) die "cannot read $uri: $(explain s3:GetObject)" ;;
    esac
  fi
  [ ! -f "$here/etl.py" ] || cmp -s "$here/etl.py" "$tmp/script" ||
    warn "etl.py has changed since it was uploaded, and the old one runs; to change that: python create_s3.py"
}

# The folder named by setting $1 must have a file in it. One that S3's console made is an empty object of the same name.
check_input() {
  local prefix
  prefix=$(prefix_of "${!1}")
  if ! ask s3api list-objects-v2 --bucket "$(bucket_of "${!1}")" --prefix "$prefix" --start-after "$prefix" \
    --max-keys 1 --no-paginate --query KeyCount; then
    case $(error_code) in
      NoSuchBucket) die "$1: there is no bucket $(bucket_of "${!1}")" ;;
      *) die "$1: cannot look into ${!1}: $(explain s3:ListBucket)" ;;
    esac
  fi
  [ "$answer" != 0 ] || die "$1: there is nothing in ${!1}/"
}

# $1 is the setting, $2 what it names, the rest how to ask for it.
check_role() {
  local name=${!1} what=$2
  shift 2
  ask iam "$@" "${name##*/}" && return
  case $(error_code) in
    NoSuchEntity) die "the $what $name is not there; the default ones are made by: aws emr create-default-roles" ;;
    AccessDenied*) warn "could not check that the $what $name is there: $(explain "iam:$permission")" ;;
    *) die "cannot check the $what $name: $(explain "iam:$permission")" ;;
  esac
}

# A bucket that only the cluster writes to must be there. Whether the cluster may write, its own role tells.
check_target() {
  local bucket
  bucket=$(bucket_of "${!1}")
  [ "$bucket" != "$BUCKET" ] || return 0
  ask s3api list-objects-v2 --bucket "$bucket" --max-keys 1 --no-paginate --query KeyCount && return
  [ "$(error_code)" != NoSuchBucket ] || die "$1: there is no bucket $bucket"
}

check_all() {
  check_credentials
  check_script
  check_input SONG_DATA
  check_input LOG_DATA
  check_target OUTPUT
  check_target LOG_URI
  [ -z "$APPLICATION" ] || return 0 # its role is no instance profile, and nobody but the application takes it
  local permission=GetRole
  check_role SERVICE_ROLE role get-role --role-name
  permission=GetInstanceProfile
  check_role INSTANCE_PROFILE "instance profile" get-instance-profile --instance-profile-name
}

# ------------------------------------------------------------------------------------ the call

json_list() {
  local word list=
  for word in "$@"; do list="$list,\"$word\""; done
  printf '[%s]' "${list#,}"
}

instance_groups() {
  local spot=
  # How the CLI writes: on spot, and never for more than on demand
  [ "$SPOT" = no ] || spot=',"BidPrice":"OnDemandPrice"'
  printf '[{"InstanceGroupType":"MASTER","InstanceCount":1,"InstanceType":"%s"},' "$INSTANCE_TYPE"
  printf '{"InstanceGroupType":"CORE","InstanceCount":%d,"InstanceType":"%s"%s}]' \
    $((NODES - 1)) "$INSTANCE_TYPE" "$spot"
}

ec2_attributes() {
  printf '{"InstanceProfile":"%s"' "$INSTANCE_PROFILE"
  [ -z "$SUBNET" ] || printf ',"SubnetId":"%s"' "$SUBNET"
  [ -z "$KEY" ] || printf ',"KeyName":"%s"' "$KEY"
  printf '}'
}

# The arguments of the job, wherever it runs.
plan_job() {
  job=(--mode S3 --song-data "$SONG_DATA" --log-data "$LOG_DATA" --output "$OUTPUT")
  [ -z "$MAX_BAD_PERCENT" ] || job=("${job[@]}" --max-bad-percent "$MAX_BAD_PERCENT")
}

steps() {
  printf '[{"Type":"Spark","Name":"%s","ActionOnFailure":"TERMINATE_CLUSTER","Args":%s}]' \
    "$NAME" "$(json_list "${spark[@]}" "s3://$BUCKET/$SCRIPT" "${job[@]}")"
}

plan_tags() {
  local given tag
  tags=()
  case ,$TAGS in *,project=*) ;; *) tags=(project=sparkify) ;; esac
  IFS=, read -r -a given <<<"$TAGS"
  for tag in ${given[@]+"${given[@]}"}; do tags=(${tags[@]+"${tags[@]}"} "$(trim "$tag")"); done
}

plan_call() {
  plan_job
  plan_tags
  if [ -n "$APPLICATION" ]; then plan_run; else plan_cluster; fi
}

# Spark's settings are the application's; no run takes longer than three hours, lest a stuck one is paid for.
plan_run() {
  local given
  given=$(IFS=, && printf '%s' "${tags[*]}")
  call=(
    aws emr-serverless start-job-run
    --region "$REGION"
    --application-id "$APPLICATION"
    --execution-role-arn "$JOB_ROLE"
    --name "$NAME"
    --execution-timeout-minutes 180
    --job-driver "$(printf '{"sparkSubmit":{"entryPoint":"s3://%s/%s","entryPointArguments":%s}}' \
      "$BUCKET" "$SCRIPT" "$(json_list "${job[@]}")")"
    --configuration-overrides "{\"monitoringConfiguration\":{\"s3MonitoringConfiguration\":{\"logUri\":\"$LOG_URI/\"}}}"
    --tags "$given"
    --query jobRunId
    --output text
  )
}

plan_cluster() {
  plan_spark
  call=(
    aws emr create-cluster
    --region "$REGION"
    ${emr_endpoint:+--endpoint-url "$emr_endpoint"}
    --name "$NAME"
    --release-label "$RELEASE"
    --applications Name=Spark
    --instance-groups "$(instance_groups)"
    --ec2-attributes "$(ec2_attributes)"
    --service-role "$SERVICE_ROLE"
    ${configurations:+--configurations "$configurations"}
    --log-uri "$LOG_URI/"
    --tags "${tags[@]}"
    --steps "$(steps)"
    --auto-terminate
    --query ClusterId
    --output text
  )
}

# What it costs, as far as the table knows.
costs() {
  if ! find_instance; then
    say "not known for $INSTANCE_TYPE (https://aws.amazon.com/emr/pricing)"
    return
  fi
  local most='' spot=''
  [ "$SPOT" = no ] || most='at most ' spot=', less with core nodes on spot'
  LC_ALL=C awk -v nodes="$NODES" -v ec2="$ec2_price" -v emr="$emr_price" -v most="$most" \
    'BEGIN { printf "%sabout $%.2f an hour", most, nodes * (ec2 + emr) }'
  say " for $NODES × $INSTANCE_TYPE$spot, billed by the second" \
    "(an estimate: on-demand prices of us-west-2, $PRICES_OF)"
}

# What is or would be launched; $1 goes before each line.
summary() {
  local plural=s
  [ "$NODES" -gt 2 ] || plural=
  if [ -n "$APPLICATION" ]; then
    say "$1runs on   EMR Serverless, application $APPLICATION, $REGION; costs are in docs/serverless.md"
  else
    say "$1nodes     1 primary, $((NODES - 1)) core node$plural: $INSTANCE_TYPE, $RELEASE, $REGION"
    say "$1costs     $(costs)"
  fi
  say "$1job       s3://$BUCKET/$SCRIPT"
  say "$1reads     $SONG_DATA and $LOG_DATA"
  say "$1writes    $OUTPUT"
}

launch() {
  launching=yes
  # Once only: after a lost answer, asking again could launch a second cluster
  if ! cluster=$(AWS_MAX_ATTEMPTS=1 "${call[@]}" 2>"$tmp/complaint") || ! matches "$cluster" '^j-[A-Z0-9]+$'; then
    complaint=$(cat "$tmp/complaint")
    cluster=
    [ -n "$(error_code)" ] ||
      die "no answer from EMR: $(explain_silence); whether there is a cluster, says: $(list_command)"
    die "no cluster was launched: $(explain elasticmapreduce:RunJobFlow)"
  fi
  SECONDS=0
  say "launched  $cluster, which ends by itself when the job has ended"
  summary ''
  say "logs      $LOG_URI/$cluster/ (some minutes late)"
  say "console   https://$REGION.console.aws.amazon.com/emr/home?region=$REGION#/clusterDetails/$cluster"
  say "watch     $(describe_command)"
  say "wait      $(follow_command)"
  say "stop      $(stop_command)"
}

emr_command() {
  local words=(aws emr "$@" --region "$REGION" ${emr_endpoint:+--endpoint-url "$emr_endpoint"}) word line=
  for word in "${words[@]}"; do line="$line $(quoted "$word")"; done
  printf '%s' "${line# }"
}
describe_command() { emr_command list-steps --cluster-id "$cluster" --query 'Steps[].Status'; }
stop_command() { emr_command terminate-clusters --cluster-ids "$cluster"; }
list_command() { emr_command list-clusters --active; }
follow_command() { say "REGION=$REGION $(quoted "$command") --follow $cluster"; }

# ------------------------------------------------------------------------------------ EMR Serverless

# The CLI may try again after a lost answer: its token tells EMR that it is the same run.
start_run() {
  if ! run=$("${call[@]}" 2>"$tmp/complaint"); then
    run=
    complaint=$(cat "$tmp/complaint")
    [ "$(error_code)" != ResourceNotFoundException ] || die "there is no application $APPLICATION in $REGION"
    die "no run was started: $(explain emr-serverless:StartJobRun)"
  fi
  SECONDS=0
  say "started   run $run"
  summary ''
  say "logs      $LOG_URI/applications/$APPLICATION/jobs/$run/"
  say "watch     $(run_command get-job-run) --query 'jobRun.[state,stateDetails]'"
  say "stop      $(run_command cancel-job-run)"
}

run_command() {
  printf '%s' "aws emr-serverless $1 --application-id $APPLICATION --job-run-id $run --region $REGION"
}

# Waits until the run has ended; ends the script with 1 where it has not succeeded.
follow_run() {
  local failures=0 details
  while :; do
    if ask emr-serverless get-job-run --application-id "$APPLICATION" --job-run-id "$run" \
      --query 'jobRun.[state,stateDetails]'; then
      failures=0
      IFS=$'\t' read -r state details <<<"$answer"
      case $state in
        SUCCESS) break ;;
        FAILED | CANCELLED) die "the job has not succeeded: run $run $state (${details:-no reason given})" 1 ;;
      esac
    else
      failures=$((failures + 1))
      [ "$failures" -lt "$POLL_FAILURES" ] || die "cannot see the run, which goes on: $(explain emr-serverless:GetJobRun)"
    fi
    sleep "$POLL_SECONDS"
  done
  say "The job has succeeded."
}

# ------------------------------------------------------------------------------------ waiting

# Looks once: sets state, reason and log_uri of the cluster and step_id and step_state.
look() {
  ask_emr describe-cluster --cluster-id "$cluster" \
    --query 'Cluster.[Status.State,LogUri,Status.StateChangeReason.Message]' || return
  local seen
  IFS=$'\t' read -r seen log_uri reason <<<"$answer"
  case $seen in
    STARTING | BOOTSTRAPPING) step_state=PENDING ;;
    *)
      ask_emr list-steps --cluster-id "$cluster" --query 'Steps[0].[Id,Status.State]' || return
      IFS=$'\t' read -r step_id step_state <<<"$answer"
      ;;
  esac
  state=$seen
  log_uri=${log_uri/#s3n:/s3:} # which EMR makes of s3:
}

# One line that changes on a terminal; elsewhere a line for each change.
show_state() {
  local line elapsed
  line="cluster $state, step $step_state"
  elapsed=$(printf '%d:%02d:%02d' $((SECONDS / 3600)) $((SECONDS / 60 % 60)) $((SECONDS % 60)))
  if [ -t 1 ]; then
    printf '\r\033[K%s  %s' "$elapsed" "$line"
    open_line=yes
  elif [ "$line" != "$shown" ]; then
    say "$elapsed  $line"
  fi
  shown=$line
}

# Ends the line that changes, so that what follows has its own.
end_line() {
  [ -z "$open_line" ] || printf '\n'
  open_line=
}

# After a failed look: try again later, unless that cannot help.
bear() {
  local why
  why=$(explain elasticmapreduce:DescribeCluster)
  case $(error_code) in
    InvalidRequest*) die "there is no cluster $cluster in $REGION" ;;
    AccessDenied* | ExpiredToken* | RequestExpired | InvalidToken | *ClientToken* | Unrecognized* | *Signature*)
      leave "$why" ;;
  esac
  failures=$((failures + 1))
  [ "$failures" -lt "$POLL_FAILURES" ] || leave "$failures looks in a row have failed"
  [ "$failures" -gt 1 ] || {
    end_line
    warn "cannot see the cluster, trying again: $why"
  }
}

follow() {
  local failures=0 shown=
  while :; do
    if look; then
      failures=0
      show_state
      case $state in TERMINATED*) break ;; esac
    else
      bear
    fi
    sleep "$POLL_SECONDS"
  done
  end_line
  [ "$step_state" = COMPLETED ] || report_failure
  say "The job has succeeded and the cluster has ended."
}

# Says what is known and ends with 1.
report_failure() {
  [ "$reason" != None ] && [ -n "$reason" ] || reason="no reason given"
  warn "the job has not succeeded: step $step_state, cluster $state ($reason)"
  local logs=${log_uri%/}/$cluster
  show_log "the step" "$logs/steps/$step_id/stderr.gz"
  # In cluster mode the job's own words are in the container of the driver, always the first; Spark joins them in stdout
  show_log "the job" "$(driver_log "$logs")"
  exit 1
}

# Where the driver's words are, or where to look for them.
driver_log() {
  local folder=$1/containers
  ask s3api list-objects-v2 --bucket "$(bucket_of "$folder")" --prefix "$(prefix_of "$folder")" \
    --query "Contents[?ends_with(Key, '_000001/stdout.gz')].[Key]" || answer=None
  case $answer in
    None | '') say "$folder/*/*_000001/stdout.gz" ;;
    *) say "s3://$(bucket_of "$folder")/$(tail -n 1 <<<"$answer")" ;;
  esac
}

show_log() {
  if ! ask s3 cp "$2" "$tmp/log.gz"; then
    warn "no log of $1 yet; it may come within some minutes: $2"
    return
  fi
  warn "the end of the log of $1, $2:"
  gzip -dc <"$tmp/log.gz" | tail -n 20 | sed 's/^/  /' >&2
}

# ------------------------------------------------------------------------------------ main

interrupted() {
  trap '' INT TERM
  if [ -n "$cluster" ]; then
    leave "interrupted" "$1"
  elif [ -n "$run" ]; then
    die "interrupted; the run goes on; to end it: $(run_command cancel-job-run)" "$1"
  elif [ -n "$launching" ]; then
    die "interrupted while launching; whether there is a cluster, says: $(list_command)" "$1"
  fi
  die "interrupted; nothing was launched" "$1"
}

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --wait) wait=yes ;;
      --dry-run) dry_run=yes ;;
      --follow)
        matches "${2:-}" '^j-[A-Z0-9]+$' || die "--follow takes the id of a cluster, like j-1ABCDEFGHIJKL"
        cluster=$2
        shift
        ;;
      --help | -h)
        usage
        exit
        ;;
      *) die "unknown option: ${1%%=*}; see etl_job.sh --help" ;;
    esac
    shift
  done
}

main() {
  wait='' dry_run='' cluster='' run='' launching='' open_line=''
  read_options "$@"
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM
  read_settings
  check_settings
  prepare_cli
  if [ -n "$cluster" ]; then
    check_credentials
    follow
    return
  fi
  check_all
  plan_call
  if [ -n "$dry_run" ]; then
    summary '# '
    print_call "${call[@]}"
    return
  fi
  if [ -n "$APPLICATION" ]; then
    start_run
    [ -z "$wait" ] || follow_run
    return
  fi
  launch
  [ -z "$wait" ] || follow
}

main "$@"
