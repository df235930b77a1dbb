#!/usr/bin/env bash
# A bootstrap action, for EMR 5.30.0 to 5.32.0 alone: their nodes let a process open 4,096 files, and AWS's notes on these
# releases say that Spark fails when it wants more, and how to raise the limit to what later releases have.
set -eu
limit=65536

for user in hadoop spark yarn; do
  printf '%s - nofile %d\n%s - nproc %d\n' "$user" "$limit" "$user" "$limit" | sudo tee "/etc/security/limits.d/$user.conf"
done

# The services that start all else: for when they start again, and as they run
for service in instancecontroller logpusher; do
  sudo mkdir -p "/etc/systemd/system/$service.service.d"
  printf '[Service]\nLimitNOFILE=%d\nLimitNPROC=%d\n' "$limit" "$limit" |
    sudo tee "/etc/systemd/system/$service.service.d/limits.conf"
  for process in $(pgrep -f "aws157.$service.Main"); do
    sudo prlimit --pid "$process" --nofile=$limit:$limit --nproc=$limit:$limit
  done
done
sudo systemctl daemon-reload
