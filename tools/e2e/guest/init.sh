#!/bin/sh
# Process 1 of a guest: mounts what programs expect and keeps the agent running.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
hostname guest
cd /tmp || exit 1
port=
for entry in /sys/class/virtio-ports/*; do
  [ "$(cat "$entry/name")" = agent ] && port=/dev/${entry##*/}
done
[ -n "$port" ] || echo 'init: no agent port'
while true; do
  agent "$port"
  echo "init: the agent ended with $?"
  sleep 1
done
