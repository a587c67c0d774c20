#!/bin/sh
# Switches a host off whose agent has not been at work for too long: it hangs, it never started, or its engine did not. Run by a timer of its own,
# needs neither agent nor engine nor network. A host that only runs costs as much as one that answers studies. An Auto Scaling group replaces one that
# is off; an agent that waits in its warm pool leaves a sign as well.
#
#   dead-man.sh RUNTIME_FOLDER UPTIME_FILE SECONDS     0: leave it on; 3: it is to be switched off
#
# RUNTIME_FOLDER/alive holds the seconds since boot at which the agent last went round (no wall clock: a wrong one moves nothing);
# RUNTIME_FOLDER/preparing.lock is held while a MAP is pulled or proved, which have limits of their own.
set -eu
folder=$1 uptime=$2 limit=$3

# Since when: process 1 and not the kernel, which is older where a machine shares it.
began=$(sed 's/.*) //' "${uptime%/*}/1/stat" 2>/dev/null | cut -d' ' -f20)
case $began in ""|*[!0-9]*) began=0 ;; esac
began=$((began / $(getconf CLK_TCK)))
now=$(cut -d. -f1 "$uptime")
[ $((now - began)) -ge "$limit" ] || exit 0
if [ -e "$folder/preparing.lock" ] && ! flock --nonblock "$folder/preparing.lock" true; then exit 0; fi
last=$(cat "$folder/alive" 2>/dev/null || true)
case $last in ""|*[!0-9]*) last=0 ;; esac
[ "$last" -ge "$began" ] || last=$began
[ $((now - last)) -lt "$limit" ] && exit 0
echo "monai-aws: no sign of the agent for $((now - last)) s, $((now - began)) s after boot: this host is to be switched off"
exit 3
