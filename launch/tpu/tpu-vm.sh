# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: one slice by `gcloud compute tpus tpu-vm`, there at once or refused.
# shellcheck source=hosts.sh
source launch/tpu/hosts.sh

gcloud_tpu=(gcloud compute tpus tpu-vm)
READY=READY

check_backend() {
  ((options[slices] == 1)) ||
    refuse "--slices=${options[slices]}: tpu-vm makes one; use --backend=queued-resources"
}

node_state() {
  ask_state "${gcloud_tpu[@]}" describe "$name" "${place[@]}" '--format=value(state)'
}

on_hosts() { # WORKER|all STRING
  call "${gcloud_tpu[@]}" ssh "$name" "${place[@]}" "--worker=$1" "--command=$2"
}

copy() { # FILE NAME
  call "${gcloud_tpu[@]}" scp "$1" "$name:$2" "${place[@]}" --worker=all
}

do_create() {
  call "${gcloud_tpu[@]}" create "$name" "${place[@]}" "--accelerator-type=${options[type]}" \
    "--version=${options[version]}" "--labels=$label" ${switches[spot]:+--spot}
}

do_delete() {
  local owner
  owner=$(call "${gcloud_tpu[@]}" describe "$name" "${place[@]}" \
    '--format=value(labels.launcher)') || return
  delete_own "$owner" "${gcloud_tpu[@]}" delete "$name" "${place[@]}" --quiet
}
