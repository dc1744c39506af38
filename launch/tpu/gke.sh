# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: the back end for GKE. A slice is a node pool, a run is a JobSet, the code is in an image.

name=${options[name]}
cluster=(
  "--cluster=${options[cluster]}" "--location=${options[location]:-${options[zone]%-?}}"
  ${options[project]:+"--project=${options[project]}"}
)
label=launcher=sir-jax
manifest=build/launch/$name.yaml

check() {
  need name
  case $verb in
    sync) need_tools git docker ;;
    create | delete) need_tools gcloud ;;
    setup | babysit) need_tools gcloud kubectl ;;
    *) need_tools kubectl ;;
  esac
  case $verb in
    create) need zone cluster type ;;
    setup) need zone cluster ;;
    delete) need zone cluster ;;
    sync) need image ;;
    run) need type image config workdir ;;
    babysit) need zone cluster type image config workdir ;;
  esac
  [ -z "${options[type]}" ] || slice_of "${options[type]}"
  [[ -z ${options[workdir]} || ${options[workdir]} == gs://* ]] ||
    refuse "--workdir=${options[workdir]}: a pod's own folders end with it; give gs://..."
}

pool() { echo "$name-$1"; }

do_create() {
  local slice
  for ((slice = 0; slice < options[slices]; slice++)); do
    call gcloud container node-pools create "$(pool "$slice")" "${cluster[@]}" \
      "--node-locations=${options[zone]}" "--machine-type=$machine" "--tpu-topology=$topology" \
      "--num-nodes=$hosts" "--node-labels=$label,sir-jax-name=$name" ${switches[spot]:+--spot}
  done
}

do_setup() {
  call gcloud container clusters get-credentials "${options[cluster]}" "${cluster[@]:1}"
  call kubectl get customresourcedefinition jobsets.jobset.x-k8s.io --output=name || {
    say "--cluster=${options[cluster]}: has no JobSet controller; install it, see launch/README.md"
    return 1
  }
}

do_wait() {
  call kubectl wait node "--selector=sir-jax-name=$name" --for=condition=Ready --timeout=30m
}

do_sync() {
  local context
  pack
  context=${archive%.tar.gz}
  # Build from the packed code, not from the checkout, which may hold other files.
  call rm -rf "$context"
  call mkdir -p "$context"
  call tar -xzf "$archive" -C "$context"
  call docker build "--file=$context/launch/Dockerfile" \
    "--build-arg=EXTRAS=${options[extras]:-train,tpu}" "--tag=${options[image]}" "$context"
  call docker push "${options[image]}"
}

# Print a string as in YAML and JSON. Kubernetes expands $(WORD) unless it is written as $$(WORD).
json() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  # shellcheck disable=SC2016
  text=${text//'$('/'$$('}
  printf '"%s"' "$text"
}

# Print the manifest: the template with its placeholders replaced.
fill() {
  local line word words='' bucket=${options[workdir]#gs://}
  local data=${options[data]#gs://} mount=implicit-dirs
  local -A known
  bucket=${bucket%%/*} data=${data%/}
  [[ $data != */* ]] || mount+=,only-dir=${data#*/}
  train_command sir-jax
  for word in "${command[@]}" "${train_args[@]}"; do words+=", $(json "$word")"; done
  known=(
    [__NAME__]=$name [__RETRIES__]=${options[retries]} [__SLICES__]=${options[slices]}
    [__HOSTS__]=$hosts [__CHIPS__]=$chips_per_host [__GRACE__]=${options[grace]}
    [__ACCELERATOR__]=$accelerator [__TOPOLOGY__]=$topology [__IMAGE__]=$(json "${options[image]}")
    [__BUCKET__]=$(json "$bucket") [__MOUNTPOINT__]=$(json "/gcs/$bucket")
    [__DATA_BUCKET__]=$(json "${data%%/*}") [__DATA_OPTIONS__]=$(json "$mount")
    [__COMMAND__]="[${words:2}]"
  )
  while IFS= read -r line; do
    [[ $line != \#* ]] || continue
    [[ -n ${options[data]} || $line != *'# data' ]] || continue
    line=${line%  # data}
    # A line has at most one placeholder; its replacement is not searched for placeholders.
    [[ ! $line =~ __[A-Z_]+__ ]] || line=${line/"${BASH_REMATCH[0]}"/"${known[${BASH_REMATCH[0]}]}"}
    printf '%s\n' "$line"
  done <launch/gke/jobset.yaml
}

# Print "NAME:" while the run is active, "NAME:Completed" or "NAME:Failed" after it has ended, and
# nothing if there is no run.
jobset_state() {
  call kubectl get jobsets "--selector=$label" "--field-selector=metadata.name=$name" \
    '--output=jsonpath={range .items[*]}{.metadata.name}:{.status.terminalState}{end}'
}

do_run() {
  local state
  state=$(jobset_state)
  if [ "$state" = "$name:" ]; then
    say "$name runs already"
    return
  fi
  if [ -n "$dry_run" ]; then
    note "where one of this name has ended:"
  fi
  if [[ -n $dry_run || -n $state ]]; then do_stop; fi
  call mkdir -p "${manifest%/*}"
  if [ -n "$dry_run" ]; then
    printf "cat >%s <<'EOF'\n%s\nEOF\n" "$manifest" "$(fill)" >&3
  else
    fill >"$manifest"
  fi
  call kubectl apply "--filename=$manifest"
}

pods() { # WORKER
  local group=jobset.sigs.k8s.io
  printf '%s' "--selector=$group/jobset-name=$name,$group/job-index=${options[slice]}" \
    ",batch.kubernetes.io/job-completion-index=$1"
}

do_logs() {
  call kubectl logs "$(pods "${options[worker]}")" --container=train --follow --tail=100
}

do_status() {
  call kubectl get nodes "--selector=sir-jax-name=$name"
  call kubectl get jobsets "$name"
  call kubectl get pods "--selector=jobset.sigs.k8s.io/jobset-name=$name" --output=wide
  # The current step is in the log; a file in a bucket is visible only after it was closed.
  call kubectl logs "$(pods 0)" --container=train --tail=3
}

# Pods receive SIGTERM and have their grace period to save.
do_stop() {
  call kubectl delete jobsets "--selector=$label" "--field-selector=metadata.name=$name"
}

# The JobSet controller restarts a run, without any machine of ours; this function only watches.
do_babysit() {
  local state
  do_setup
  do_run
  [ -z "$dry_run" ] ||
    note "every ${options[poll]} s until it has ended; restarts are the cluster's:"
  while :; do
    state=$(jobset_state) || continue
    [ -z "$dry_run" ] || return 0
    case $state in
      "$name:Completed") say "$name: training is done"; return 0 ;;
      "$name:Failed") say "$name: failed; see logs"; return 1 ;;
      '') say "$name: stopped by hand"; return 143 ;;
    esac
    sleep "${options[poll]}"
  done
}

do_delete() {
  local slice owner
  for ((slice = 0; slice < options[slices]; slice++)); do
    owner=$(call gcloud container node-pools describe "$(pool "$slice")" "${cluster[@]}" \
      '--format=value(config.labels.launcher)')
    [[ -n $dry_run || $owner == sir-jax ]] ||
      refuse "--name=$name: node pool $(pool "$slice") has no label $label, so this script did" \
        "not make it"
    call gcloud container node-pools delete "$(pool "$slice")" "${cluster[@]}" --quiet
  done
}
