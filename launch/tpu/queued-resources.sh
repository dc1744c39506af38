# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: the back end for `gcloud compute tpus queued-resources`, which provides one or several
# slices when there is capacity.
# shellcheck source=hosts.sh
source launch/tpu/hosts.sh

gcloud_tpu=(gcloud compute tpus queued-resources)
READY=ACTIVE

check_backend() {
  ((options[slice] < options[slices])) ||
    refuse "--slice=${options[slice]}: there are ${options[slices]}, the first is 0"
}

node_state() {
  ask_state "${gcloud_tpu[@]}" describe "$name" "${zone_flags[@]}" '--format=value(state.state)'
}

on_hosts() { # WORKER|all STRING
  local node=${options[slice]}
  [ "$1" != all ] || node=all
  call "${gcloud_tpu[@]}" ssh "$name" "${zone_flags[@]}" "--node=$node" "--worker=$1" "--command=$2"
}

copy() { # FILE NAME
  call "${gcloud_tpu[@]}" scp "$1" "$name:$2" "${zone_flags[@]}" --node=all --worker=all
}

do_create() {
  local nodes=("--node-id=$name")
  ((options[slices] == 1)) || nodes=("--node-count=${options[slices]}" "--node-prefix=$name")
  call "${gcloud_tpu[@]}" create "$name" "${zone_flags[@]}" "${nodes[@]}" \
    "--accelerator-type=${options[type]}" "--runtime-version=${options[version]}" \
    "--labels=$label" ${switches[spot]:+--spot}
}

do_delete() {
  local owner
  owner=$(call "${gcloud_tpu[@]}" describe "$name" "${zone_flags[@]}" \
    '--format=value(tpu.nodeSpec[0].node.labels.launcher)') || return
  # --force also deletes the nodes that an ACTIVE request still has.
  delete_own "$owner" "${gcloud_tpu[@]}" delete "$name" "${zone_flags[@]}" --force --quiet
}
