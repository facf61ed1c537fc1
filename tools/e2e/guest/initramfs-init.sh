#!/bin/busybox sh
# First program of a guest: finds the root image and hands over to it.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do
  $bb insmod "/modules/$module" || echo "init: $module could not be loaded"
done
tries=0
until [ -b /dev/vda ] || [ "$tries" -ge 50 ]; do
  $bb sleep 0.1
  tries=$((tries + 1))
done
$bb mount -t erofs -o ro /dev/vda /root || { echo 'init: no root image'; exec $bb sh; }
$bb mount -o move /dev /root/dev
exec $bb switch_root /root /sbin/init
