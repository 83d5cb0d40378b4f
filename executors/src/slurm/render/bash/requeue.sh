
# Starts the job again, at most MAX times for this reason, and exits: requeue REASON MAX CODE.
requeue() {
    local count
    count=$(grep -cx "$own $1" "$dir/slurm.requeues" 2>/dev/null)
    if [ "${count:-0}" -ge "$2" ]; then
        return
    fi
    echo "$own $1" >>"$dir/slurm.requeues"
    echo "neva-run: requeue $((${count:-0} + 1)) of at most $2, reason: $1" >&2
    requeued=1
    if scontrol requeue "$own"; then
        exit "$3"
    fi
    requeued=0
}
