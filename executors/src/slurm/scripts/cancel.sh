# Requests the stop of a job: `cancel DIR NUMBER SIGNAL`. The first request sends SIGNAL to the ranks, which save and exit; the
# second kills. A job that waits is removed. Nothing happens to one that has ended.
dir=$1 id=$2 signal=$3
job=${id%%+*}
if ! states=$(squeue --noheader --states=all --array --format=%T --jobs="$job" 2>&1); then
  case $states in
    *'Invalid job id'*) exit 0 ;;
  esac
  printf '%s\n' "$states" >&2
  exit 1
fi
alive='' waits=''
for state in $states; do
  case $state in
    RUNNING | COMPLETING | SUSPENDED | STOPPED | SIGNALING | STAGE_OUT | RESIZING) alive=1 ;;
    PENDING | CONFIGURING | REQUEUED | REQUEUE_HOLD | REQUEUE_FED | SPECIAL_EXIT | RESV_DEL_HOLD) waits=1 ;;
  esac
done
[ -n "$alive$waits" ] || exit 0
before=$(grep -c "^$id " "$dir/cancel" 2>/dev/null)
printf '%s %s\n' "$id" "$signal" >>"$dir/cancel" || exit 1
if [ "$job" != "$id" ] && [ "${before:-0}" = 0 ]; then
  # If one task of a group is stopped, all are: once, whichever task it was.
  read -r own kind key root <"$dir/slurm.job" || exit 1
  grep -q "^$job " "$root/cancel" 2>/dev/null && exit 0
  printf '%s %s\n' "$job" "$signal" >>"$root/cancel" || exit 1
  while IFS=' ' read -r steps suffix kind folder; do
    # One that has ended was not stopped.
    if [ "$job$suffix" != "$id" ] && ! grep -q "^$job " "$folder/slurm.status" 2>/dev/null; then
      printf '%s %s\n' "$job" "$signal" >>"$folder/cancel" || exit 1
    fi
  done <"$root/tasks.txt"
fi
if [ -z "$alive" ]; then
  scancel "$job"
elif [ "${before:-0}" = 0 ]; then
  # To the steps, not to the batch script. The script reads `cancel` before it starts its steps; a signal that arrives between
  # this and the start of a step's processes would reach nobody.
  tries=0
  while [ "$tries" -lt 12 ]; do
    steps=$(squeue --noheader --steps --jobs="$job" --format='%i %M' 2>/dev/null | grep '\.[0-9]')
    case $steps in
      '') [ -n "$(squeue --noheader --states=running,suspended --jobs="$job" --format=%i 2>/dev/null)" ] || exit 0 ;;
      *' 0:00' | *' 0:01') ;;
      *) break ;;
    esac
    tries=$((tries + 1))
    sleep 0.5
  done
  scancel --quiet --signal="$signal" "$job"
else
  scancel --quiet --full --signal=KILL "$job"
  scancel --quiet "$job"
fi
exit 0
