# Prepares folders for a job: `prepare ENDED...`, with the folders in the input, a line for each, first that of the job itself.
# If one holds a job with another number than ENDED, prints `job NUMBER FOLDER` for each such job and changes nothing. Else moves what
# earlier jobs left, and prints `ready N`: this is the Nth job in the first folder.
ended=" $* "
folders=$(cat)
first=${folders%%
*}
mkdir -p "$first/logs" || exit 1
exec 9>"$first/slurm.lock"
if command -v flock >/dev/null 2>&1 && ! flock -w 60 9; then
  echo "another submission holds $first/slurm.lock" >&2
  exit 1
fi
IFS='
'
set -f
jobs=''
for dir in $folders; do
  if [ -f "$dir/slurm.job" ]; then
    IFS=' ' read -r id rest <"$dir/slurm.job"
    case $ended in
      *" $id "*) ;;
      *)
        jobs=1
        echo "job $id $dir"
        ;;
    esac
  fi
done
[ -z "$jobs" ] || exit 0
# Few processes for many folders.
set --
for dir in $folders; do
  set -- "$@" "$dir/logs"
  if [ $# -ge 200 ]; then
    mkdir -p "$@" || exit 1
    set --
  fi
done
[ $# -eq 0 ] || mkdir -p "$@" || exit 1
for dir in $folders; do
  n=1
  while [ -e "$dir/logs/attempt-$n" ]; do n=$((n + 1)); done
  old=$dir/logs/attempt-$n
  set +f
  for file in "$dir"/logs/*; do
    if [ -f "$file" ]; then
      mkdir -p "$old" && mv "$file" "$old/" || exit 1
    fi
  done
  set -f
  if [ -f "$dir/slurm.job" ]; then
    mkdir -p "$old" && mv "$dir/slurm.job" "$old/" || exit 1
  fi
  if [ -f "$dir/slurm.status" ] || [ -f "$dir/cancel" ] || [ -f "$dir/report.json" ]; then
    rm -f "$dir/slurm.status" "$dir/cancel" "$dir/report.json" || exit 1
  fi
  if [ "$dir" = "$first" ]; then
    while [ -e "$dir/logs/attempt-$n" ]; do n=$((n + 1)); done
    number=$n
  fi
done
echo "ready $number"
