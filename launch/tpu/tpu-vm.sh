# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: the back end for `gcloud compute tpus tpu-vm`, which provides one slice at once or fails.
# shellcheck source=hosts.sh
source launch/tpu/hosts.sh

gcloud_tpu=(gcloud compute tpus tpu-vm)
READY=READY

check_backend() {
  ((options[slices] == 1)) ||
    refuse "--slices=${options[slices]}: tpu-vm makes one; use --backend=queued-resources"
}

node_state() {
  ask_state "${gcloud_tpu[@]}" describe "$name" "${zone_flags[@]}" '--format=value(state)'
}

on_hosts() { # WORKER|all STRING
  call "${gcloud_tpu[@]}" ssh "$name" "${zone_flags[@]}" "--worker=$1" "--command=$2"
}

copy() { # FILE NAME
  call "${gcloud_tpu[@]}" scp "$1" "$name:$2" "${zone_flags[@]}" --worker=all
}

do_create() {
  call "${gcloud_tpu[@]}" create "$name" "${zone_flags[@]}" "--accelerator-type=${options[type]}" \
    "--version=${options[version]}" "--labels=$label" ${switches[spot]:+--spot}
}

do_delete() {
  local owner
  owner=$(call "${gcloud_tpu[@]}" describe "$name" "${zone_flags[@]}" \
    '--format=value(labels.launcher)') || return
  delete_own "$owner" "${gcloud_tpu[@]}" delete "$name" "${zone_flags[@]}" --quiet
}
