#!/usr/bin/env bash
# A bootstrap action for EMR 5.30.0 to 5.32.0, whose nodes let a process open 4,096 files. AWS's notes on these releases
# say that this is too few for Spark, and how to raise the limit to that of later releases.
set -eu
limit=65536

for user in hadoop spark yarn; do
  printf '%s - nofile %d\n%s - nproc %d\n' "$user" "$limit" "$user" "$limit" | sudo tee "/etc/security/limits.d/$user.conf"
done

# The services that start everything else: the limit for their next start, and of the running processes
for service in instancecontroller logpusher; do
  sudo mkdir -p "/etc/systemd/system/$service.service.d"
  printf '[Service]\nLimitNOFILE=%d\nLimitNPROC=%d\n' "$limit" "$limit" |
    sudo tee "/etc/systemd/system/$service.service.d/limits.conf"
  for process in $(pgrep -f "aws157.$service.Main"); do
    sudo prlimit --pid "$process" --nofile=$limit:$limit --nproc=$limit:$limit
  done
done
sudo systemctl daemon-reload
