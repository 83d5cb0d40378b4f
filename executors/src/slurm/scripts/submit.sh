# Submits a job once: `submit DIR KEY KIND TASKS SBATCH...`; TASKS is empty if the job has no list of tasks. Prints
# `job NUMBER`, also if an earlier call submitted it whose reply was lost: its number is in DIR/slurm.job, or Slurm has a job
# with KEY in its comment. Prints `failed CODE` if sbatch failed.
# The lock is held until sbatch has ended, even if this shell is killed before.
dir=$1 key=$2 kind=$3 tasks=$4
shift 4
exec 9>"$dir/slurm.lock"
if command -v flock >/dev/null 2>&1 && ! flock -w 120 9; then
  echo "another submission holds $dir/slurm.lock" >&2
  exit 1
fi
# Renames the files of all tasks: in one process where there is perl, since there may be thousands.
rename_all() {
  if command -v perl >/dev/null 2>&1; then
    perl -ne 'chomp; my $folder = (split / /, $_, 4)[3];
      rename "$folder/slurm.job.part", "$folder/slurm.job" or die "$folder/slurm.job: $!\n"' "$dir/tasks.txt"
  else
    while IFS=' ' read -r steps suffix task_kind folder; do
      mv "$folder/slurm.job.part" "$folder/slurm.job" || return 1
    done <"$dir/tasks.txt"
  fi
}
done_with() { # NUMBER
  # The tasks of an array or a group first: if the job's own file is there, so are theirs.
  if [ -n "$tasks" ]; then
    while IFS=' ' read -r steps suffix task_kind folder; do
      printf '%s %s %s %s\n' "$1$suffix" "$task_kind" "$key" "$dir" >"$folder/slurm.job.part" || exit 1
    done <"$dir/tasks.txt" || exit 1
    rename_all || exit 1
  fi
  printf '%s %s %s\n' "$1" "$kind" "$key" >"$dir/slurm.job.part" && mv "$dir/slurm.job.part" "$dir/slurm.job" || exit 1
  rm -f "$dir/slurm.submitting"
  echo "job $1"
  exit 0
}
if [ -f "$dir/slurm.job" ]; then
  read -r id rest <"$dir/slurm.job"
  echo "job $id"
  exit 0
fi
if [ -f "$dir/slurm.submitting" ]; then
  jobs=$(squeue --noheader --states=all --user="$(id -un)" --format='%i %k') || { echo "failed $?"; exit 0; }
  id=$(printf '%s\n' "$jobs" | grep -F "neva-run:$key" | sed -n 's/^ *\([0-9][0-9]*\).*/\1/p' | head -n 1)
  [ -z "$id" ] || done_with "$id"
fi
echo "$key" >"$dir/slurm.submitting" || exit 1
out=$("$@") || { echo "failed $?"; exit 0; }
# Clusters of a federation print `NUMBER;CLUSTER`.
id=$(printf '%s\n' "$out" | sed -n 's/^\([0-9][0-9]*\)\(;.*\)\{0,1\}$/\1/p' | tail -n 1)
[ -n "$id" ] || { printf '%s\n' "$out" >&2; echo "failed 0"; exit 0; }
done_with "$id"
