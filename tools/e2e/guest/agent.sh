#!/bin/sh
# Runs what the host sends over a virtio port, one command after the other.
#   host:  RUN <id> <seconds> <base64 of a shell script>
#   guest: READY <boot id>                              once, when it starts
#          RES <id> <exit code> <bytes of output> <bytes of errors>   then exactly those bytes
# A script that runs longer than its seconds is killed and answers 137.
exec 3<>"$1" || exit 1
mkdir -p /tmp/.agent
work=/tmp/.agent
echo "READY $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r word id seconds script <&3; do
  [ "$word" = RUN ] || continue
  echo "$script" | base64 -d >$work/script
  timeout -s KILL "$seconds" sh $work/script >$work/out 2>$work/err </dev/null 3>&-
  code=$?
  echo "RES $id $code $(stat -c %s $work/out) $(stat -c %s $work/err)" >&3
  cat $work/out $work/err >&3
done
