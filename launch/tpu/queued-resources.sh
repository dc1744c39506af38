# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: one or several slices by `gcloud compute tpus queued-resources`, when there is room.
# shellcheck source=hosts.sh
source launch/tpu/hosts.sh

gcloud_tpu=(gcloud compute tpus queued-resources)
READY=ACTIVE

check_backend() {
  ((options[slice] < options[slices])) ||
    refuse "--slice=${options[slice]}: there are ${options[slices]}, the first is 0"
}

node_state() {
  ask_state "${gcloud_tpu[@]}" describe "$name" "${place[@]}" '--format=value(state.state)'
}

on_hosts() { # WORKER|all STRING
  local node=${options[slice]}
  [ "$1" != all ] || node=all
  call "${gcloud_tpu[@]}" ssh "$name" "${place[@]}" "--node=$node" "--worker=$1" "--command=$2"
}

copy() { # FILE NAME
  call "${gcloud_tpu[@]}" scp "$1" "$name:$2" "${place[@]}" --node=all --worker=all
}

do_create() {
  local nodes=("--node-id=$name")
  ((options[slices] == 1)) || nodes=("--node-count=${options[slices]}" "--node-prefix=$name")
  call "${gcloud_tpu[@]}" create "$name" "${place[@]}" "${nodes[@]}" \
    "--accelerator-type=${options[type]}" "--runtime-version=${options[version]}" \
    "--labels=$label" ${switches[spot]:+--spot}
}

do_delete() {
  local owner
  owner=$(call "${gcloud_tpu[@]}" describe "$name" "${place[@]}" \
    '--format=value(tpu.nodeSpec[0].node.labels.launcher)') || return
  # --force takes the nodes along, which a request that is ACTIVE still has.
  delete_own "$owner" "${gcloud_tpu[@]}" delete "$name" "${place[@]}" --force --quiet
}
