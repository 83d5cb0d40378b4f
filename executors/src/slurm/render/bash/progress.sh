
# Shows the progress of the run in DIR of STEPS steps in the comment of the job, every SECONDS seconds, where squeue prints it.
# The comment also holds the key by which the launcher finds the job, which stays: show_progress DIR STEPS SECONDS.
show_progress() {
    local comment line step loss text shown=''
    comment=$(squeue --noheader --jobs="$own" --format=%k)
    if [[ $comment =~ ^(.*neva-run:[0-9A-Za-z-]+) ]]; then
        comment="${BASH_REMATCH[1]} "
    else
        comment=''
    fi
    while sleep "$3"; do
        line=$(tail -n 20 "$1/metrics.jsonl" | grep '"reduced_train_loss"' | tail -n 1)
        step=$(echo "$line" | sed -n 's/.*"step": *\([0-9]*\).*/\1/p')
        loss=$(echo "$line" | sed -n 's/.*"reduced_train_loss": *\([^,} ]*\).*/\1/p')
        [ -n "$step" ] || continue
        text="step $((step + 1))${2:+ of $2}, loss $loss"
        if [ "$text" != "$shown" ] && scontrol update JobId="$own" Comment="$comment$text"; then
            shown=$text
        fi
    done
}
