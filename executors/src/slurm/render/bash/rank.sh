
# Runs a rank. srun kills all ranks as soon as one fails; the pause gives the others time to record their failure, or to save.
# A trap without commands, because the rank would inherit an ignored signal.
rank='trap : HUP INT TERM USR1
"$@"
code=$?
if [ "$code" -ne 0 ]; then
    sleep 5
fi
if [ "$code" -gt 128 ]; then
    trap - HUP INT TERM USR1
    kill "-$((code - 128))" "$$"
fi
exit "$code"'
