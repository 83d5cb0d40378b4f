# Prepares the folder DIR for a job: `prepare DIR ENDED`. If it holds a job with another number than ENDED, prints `job NUMBER`
# and changes nothing. Else moves what an earlier job left, and prints `ready N`: this is the Nth job in the folder.
dir=$1 ended=$2
mkdir -p "$dir/logs" || exit 1
exec 9>"$dir/slurm.lock"
if command -v flock >/dev/null 2>&1 && ! flock -w 60 9; then
  echo "another submission holds $dir/slurm.lock" >&2
  exit 1
fi
if [ -f "$dir/slurm.job" ]; then
  read -r id rest <"$dir/slurm.job"
  if [ "$id" != "$ended" ]; then
    echo "job $id"
    exit 0
  fi
fi
n=1
while [ -e "$dir/logs/attempt-$n" ]; do n=$((n + 1)); done
for file in "$dir"/logs/*; do
  if [ -f "$file" ]; then
    mkdir -p "$dir/logs/attempt-$n" && mv "$file" "$dir/logs/attempt-$n/" || exit 1
  fi
done
if [ -f "$dir/slurm.job" ]; then
  mkdir -p "$dir/logs/attempt-$n" && mv "$dir/slurm.job" "$dir/logs/attempt-$n/" || exit 1
fi
rm -f "$dir/slurm.status" "$dir/cancel" "$dir/report.json" || exit 1
while [ -e "$dir/logs/attempt-$n" ]; do n=$((n + 1)); done
echo "ready $n"
